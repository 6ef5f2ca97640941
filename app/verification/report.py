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


def has_passed(report: Report, max_mismatch_rate: float) -> bool:
    """Whether no more answers differ than the operator lets pass."""
    return report.mismatch_rate <= max_mismatch_rate


def describe(
    model: ServedModel, requests: Requests, report: Report, max_mismatch_rate: float
) -> Iterator[str]:
    """The report as lines of text, the verdict last."""
    checkpoint = model.checkpoint
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    yield f"checkpoint: {model.name} ({checkpoint.architecture}), {dtype} on {checkpoint.device}"
    yield f"served by:  {_way(model)}"
    yield f"task:       {requests.task}"
    yield f"sources:    {requests.origin}"
    yield f"texts cut:  {_cut(model, requests)}"
    yield ""
    yield from _counts(report, dtype)
    yield ""
    yield from _speeds(report)
    yield from _excuses(report)
    yield from _differences(model, requests, report)
    yield ""
    if not _is_exact(report):
        yield (
            f"Differences are expected in {dtype}: the reference is generate() in "
            f"{str(checkpoint.model.dtype).removeprefix('torch.')}, and both round; "
            "see docs/exactness.md."
        )
    yield _verdict(report, max_mismatch_rate)


def _way(model: ServedModel) -> str:
    if model.family == GENERATE:
        return f"generate() itself, slower: {model.reason}"
    return f"the lean decoder, family {model.family}"


def _cut(model: ServedModel, requests: Requests) -> str:
    if not requests.num_cut:
        return "none"
    return f"{requests.num_cut} of {len(requests.sources)}, to {model.text.max_source_len} tokens"


def _is_exact(report: Report) -> bool:
    """Whether scores have a bound and near-ties are looked for: in float32."""
    return report.results[0].is_exact


def _counts(report: Report, dtype: str) -> Iterator[str]:
    num_requests, num_different = len(report.results), len(report.different)
    num_same = num_requests - num_different - len(report.excused)
    yield f"{'requests':>10}{'identical':>12}{'near-ties excused':>20}{'different':>12}"
    yield f"{num_requests:>10}{num_same:>12}{len(report.excused):>20}{num_different:>12}"
    yield ""
    yield f"mismatch rate:              {report.mismatch_rate:.4f}"
    bound = f"bound {SCORE_TOLERANCE:.0e}" if _is_exact(report) else f"no bound in {dtype}"
    yield f"largest deviation of score: {report.score_deviation:.1e}, {bound}"


def _speeds(report: Report) -> Iterator[str]:
    yield f"{'':24}{'seconds':>10}{'tokens/s':>10}{'answers/s':>11}"
    for name, timed in (
        ("generate(), one by one", report.alone),
        ("engine, all at once", report.together),
    ):
        rate = len(report.results) / timed.seconds
        yield f"{name:24}{timed.seconds:>10.2f}{timed.tokens_per_s:>10.0f}{rate:>11.1f}"
    ratio = report.alone.seconds / report.together.seconds
    verb = "has" if ratio >= 1 else "is slower, with"
    yield f"the engine {verb} {ratio:.2f}x the speed of generate() one by one"


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
    if len(report.different) + len(report.excused) > MOST_JUDGED and _is_exact(report):
        yield f"only the first {MOST_JUDGED} differences were looked into for near-ties"


def _verdict(report: Report, max_mismatch_rate: float) -> str:
    num_different = len(report.different)
    found = f"{num_different} of {len(report.results)} differ"
    if num_different:
        found += f", {_percent(report.mismatch_rate)}"
    if report.excused:
        found += f", {len(report.excused)} excused as near-ties"
    if has_passed(report, max_mismatch_rate):
        return f"PASSED: {found} (allowed: {_percent(max_mismatch_rate)})"
    return f"FAILED: {found} (allowed with --max-mismatch-rate: {_percent(max_mismatch_rate)})"


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"


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
