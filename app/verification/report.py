"""What `tandem verify` prints."""

from collections.abc import Iterator
from dataclasses import fields

from app.verification.requests import Requests
from model_core.choose_runner import GENERATE
from model_core.models import ServedModel
from model_core.request import Hypothesis, Output
from model_core.verification.compare import SCORE_TOLERANCE, Difference
from model_core.verification.run import MOST_JUDGED, Report, Result

_MOST_SHOWN = 5


def describe(model: ServedModel, requests: Requests, report: Report) -> Iterator[str]:
    """The report as lines of text."""
    checkpoint = model.checkpoint
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    yield f"checkpoint: {model.name} ({checkpoint.architecture}), {dtype} on {checkpoint.device}"
    yield f"served by:  {_way(model)}"
    yield f"sources:    {requests.origin}"
    yield ""
    yield from _counts(report)
    yield ""
    yield from _speeds(report)
    yield from _excuses(report)
    yield from _differences(model, requests, report)


def _way(model: ServedModel) -> str:
    if model.family == GENERATE:
        return "generate() itself: the warning above says why"
    return f"the lean decoder, family {model.family}"


def _counts(report: Report) -> Iterator[str]:
    num_requests, num_different = len(report.results), len(report.different)
    num_same = num_requests - num_different - len(report.excused)
    yield f"{'requests':>10}{'identical':>12}{'near-ties excused':>20}{'different':>12}"
    yield f"{num_requests:>10}{num_same:>12}{len(report.excused):>20}{num_different:>12}"
    yield ""
    yield f"mismatch rate:              {report.mismatch_rate:.4f}"
    bound = f", bound {SCORE_TOLERANCE:.0e}" if report.results[0].is_exact else ""
    yield f"largest deviation of score: {report.score_deviation:.1e}{bound}"


def _speeds(report: Report) -> Iterator[str]:
    yield f"{'':24}{'seconds':>10}{'tokens/s':>10}{'answers/s':>11}"
    for name, timed in (
        ("generate(), one by one", report.alone),
        ("engine, all at once", report.together),
    ):
        rate = len(report.results) / timed.seconds
        yield f"{name:24}{timed.seconds:>10.2f}{timed.tokens_per_s:>10.0f}{rate:>11.1f}"
    yield f"{'engine is faster by':24}{report.alone.seconds / report.together.seconds:>10.2f}"


def _excuses(report: Report) -> Iterator[str]:
    for at, ties in report.excused.items():
        yield ""
        yield f"near-tie in source {at}:"
        yield from (f"  {tie}" for tie in ties)


def _differences(model: ServedModel, requests: Requests, report: Report) -> Iterator[str]:
    for at in report.different[:_MOST_SHOWN]:
        yield ""
        result = report.results[at]
        source = requests.texts[at] or list(result.source.source_ids)
        yield f"difference in source {at} ({_named(result)}):"
        yield f"  source:     {source}"
        yield from _answers(model, result)
    hidden = len(report.different) - _MOST_SHOWN
    if hidden > 0:
        yield ""
        yield f"{hidden} more differences"
    if len(report.different) + len(report.excused) > MOST_JUDGED and report.results[0].is_exact:
        yield f"only the first {MOST_JUDGED} differences were looked into for near-ties"


def _answers(model: ServedModel, result: Result) -> Iterator[str]:
    if not isinstance(result.output, Output):
        yield f"  engine:     ended with an error: {result.output}"
        return
    assert result.comparison is not None
    found = result.comparison.difference
    if found is None:
        yield f"  scores:     deviate by {result.comparison.score_deviation:.1e}"
        return
    yield f"  generate(): {_answer(model, found.theirs)}"
    yield f"  engine:     {_answer(model, found.ours)}"
    yield f"  {_first_difference(model, found)}"


def _first_difference(model: ServedModel, found: Difference) -> str:
    where = f"hypothesis {found.rank + 1}"
    if found.ours is None or found.theirs is None:
        return f"{where}: only one of the two has it"
    if found.position is None:
        return (
            f"{where}: finish reason {found.ours.finish_reason}, not {found.theirs.finish_reason}"
        )
    ours, theirs = (_token(model, each, found.position) for each in (found.ours, found.theirs))
    return f"{where}, token {found.position}: {ours} instead of {theirs}"


def _token(model: ServedModel, hypothesis: Hypothesis, position: int) -> str:
    if position >= len(hypothesis.token_ids):
        return "the end"
    token_id = hypothesis.token_ids[position]
    return f"{token_id} {model.checkpoint.tokenizer.convert_ids_to_tokens(token_id)!r}"


def _answer(model: ServedModel, hypothesis: Hypothesis | None) -> str:
    if hypothesis is None:
        return "nothing"
    return f"{model.text.detokenize(hypothesis.token_ids)} (score {hypothesis.score:.6f})"


def _named(result: Result) -> str:
    """What the request asks for beyond transformers' defaults, token ids apart."""
    parameters = result.source.parameters
    values = {each: getattr(parameters, each.name) for each in fields(parameters)}
    return ", ".join(
        f"{each.name}={value}"
        for each, value in values.items()
        if value != each.default and not each.name.endswith(("_id", "_ids"))
    )
