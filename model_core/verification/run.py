"""Many requests through `generate()` one by one and through the engine all at once."""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property

import torch

from model_core.errors import TandemError
from model_core.models import ServedModel
from model_core.request import Output
from model_core.text import PreparedSource
from model_core.verification.compare import Comparison, compare
from model_core.verification.near_tie import explain
from model_core.verification.reference import Reference, generate_alone
from model_core.verification.ties import Tie

Tick = Callable[[str], None]
"""Told after each piece of work, with its name."""

MOST_JUDGED = 20
"""Differences that are looked into for a tie; each takes several runs of `generate()`."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Answers and what they took.

    Attributes:
        seconds: For all of them.
        num_tokens: Target tokens of the best hypotheses.
    """

    seconds: float
    num_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Target tokens of answers per second."""
        return self.num_tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Result:
    """One request and how its two answers compare.

    Attributes:
        source: The request.
        reference: The answer of `generate()`.
        output: The answer of the engine, or the error that it ended with.
        is_exact: Whether scores have to agree, and ties are looked for: float32.
    """

    source: PreparedSource
    reference: Reference
    output: Output | TandemError
    is_exact: bool

    @cached_property
    def comparison(self) -> Comparison | None:
        """None where the engine ended the request with an error."""
        if isinstance(self.output, TandemError):
            return None
        return compare(self.output, self.reference)

    @property
    def is_same(self) -> bool:
        """Equal tokens and finish reasons, and in float32 equal scores too."""
        found = self.comparison
        if found is None:
            return False
        return found.is_same if self.is_exact else found.difference is None

    def explain(self) -> tuple[Tie, ...] | None:
        """The tie that makes the difference, if one is shown."""
        found = self.comparison
        if not self.is_exact or found is None or found.difference is None:
            return None
        assert isinstance(self.output, Output)
        return explain(self.reference, self.output)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of verifying a checkpoint.

    Attributes:
        results: In the order of the sources.
        excused: Which of them differ by ties, by their place, with the ties.
        alone: `generate()`, one request after the other.
        together: The engine, all requests at once.
    """

    results: tuple[Result, ...]
    excused: dict[int, tuple[Tie, ...]]
    alone: Timed
    together: Timed

    @property
    def different(self) -> tuple[int, ...]:
        """Places of the results that differ without an excuse."""
        places = enumerate(self.results)
        return tuple(at for at, each in places if not each.is_same and at not in self.excused)

    @property
    def mismatch_rate(self) -> float:
        """Part of the requests whose answers differ without an excuse."""
        return len(self.different) / len(self.results)

    @property
    def score_deviation(self) -> float:
        """The largest, of all hypotheses up to the first difference of each request."""
        found = [each.comparison for each in self.results]
        return max((each.score_deviation for each in found if each is not None), default=0.0)


def verify(
    model: ServedModel, sources: Sequence[PreparedSource], rng: random.Random, tick: Tick
) -> Report:
    """Answer every source in both ways and compare; the engine's loop must run.

    Args:
        model: The checkpoint.
        sources: Its requests.
        rng: Draws the order in which the engine gets them.
        tick: Is told of progress: `2 * len(sources)` times, and more where answers differ.
    """
    _warm_up(model, sources[0])
    references, alone = _ask_generate(model, sources, tick)
    outputs, together = _ask_engine(model, sources, rng, tick)
    is_exact = model.checkpoint.dtype == torch.float32
    results = tuple(
        Result(source, reference, output, is_exact)
        for source, reference, output in zip(sources, references, outputs, strict=True)
    )
    excused = {}
    differing = [at for at, result in enumerate(results) if not result.is_same]
    for at in differing[:MOST_JUDGED]:
        ties = results[at].explain()
        tick("looking for ties")
        if ties is not None:
            excused[at] = ties
    return Report(results, excused, alone, together)


def _warm_up(model: ServedModel, source: PreparedSource) -> None:
    """Let both ways load what they load at their first call."""
    _ask_alone(model, source)
    _outcome(model.submit(source))


def _ask_generate(
    model: ServedModel, sources: Sequence[PreparedSource], tick: Tick
) -> tuple[list[Reference], Timed]:
    started, references = time.perf_counter(), []
    for source in sources:
        references.append(_ask_alone(model, source))
        tick("generate(), one by one")
    seconds = time.perf_counter() - started
    return references, Timed(seconds, sum(len(r.hypotheses[0].token_ids) for r in references))


def _ask_alone(model: ServedModel, source: PreparedSource) -> Reference:
    checkpoint, parameters = model.checkpoint, source.parameters
    stop_strings = checkpoint.stop_strings if parameters.stop_strings else None
    return generate_alone(
        checkpoint.model,
        source.source_ids,
        parameters,
        stop_strings,
        checkpoint.global_attention,
    )


def _ask_engine(
    model: ServedModel, sources: Sequence[PreparedSource], rng: random.Random, tick: Tick
) -> tuple[list[Output | TandemError], Timed]:
    order = list(range(len(sources)))
    rng.shuffle(order)
    started = time.perf_counter()
    futures = {at: model.submit(sources[at]) for at in order}
    outputs = []
    for at in range(len(sources)):
        outputs.append(_outcome(futures[at]))
        tick("the engine, all at once")
    seconds = time.perf_counter() - started
    answered = [each for each in outputs if isinstance(each, Output)]
    return outputs, Timed(seconds, sum(each.generated_tokens for each in answered))


def _outcome(future: Future[Output]) -> Output | TandemError:
    try:
        return future.result()
    except TandemError as error:
        return error
