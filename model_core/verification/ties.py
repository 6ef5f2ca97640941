"""The decisions of a run of `generate()` that were close."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from model_core.generation import GenerationParameters
from model_core.verification.reference import Candidate, Trace, TracedStep

NOISE = 1e-5
"""Float noise of a float32 logit, as a part of the largest logit.

Between this decoder and the library's forward the largest difference of any logit, over random
hypotheses, is 4e-7 to 1e-5 of the largest one, mostly 1e-6. This is the largest: `generate()`
itself is as far from a float64 copy. The noise of a sum over `n` steps is taken as that of one
step times `sqrt(n)`: errors of different steps are independent.
"""

_IMPOSSIBLE = -1e8  # below it: what transformers marks as impossible, with -1e9
_NUM_SPARE = 8  # candidates to know beyond those that were compared

Decision = Literal["token", "rank of a finished hypothesis", "end of the search"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of two candidates that were compared.

    Attributes:
        candidate: Its tokens.
        total: Sum of its processed log-probabilities; the processed logit in greedy search.
        weight: What was compared is `total * weight`.
        noise: Float noise of that.
    """

    candidate: Candidate
    total: float
    weight: float
    noise: float

    @property
    def value(self) -> float:
        """What was compared."""
        return self.total * self.weight


@dataclass(frozen=True, slots=True)
class Tie:
    """Two candidates that float noise may put in either order.

    Attributes:
        decision: What their order decides.
        winner: The one that `generate()` puts first.
        loser: The other.
        float64_gap: The gap in a float64 copy of the model, negative where the loser wins there;
            None where it could not be asked.
    """

    decision: Decision
    winner: Side
    loser: Side
    float64_gap: float | None = None

    @property
    def gap(self) -> float:
        """How far apart the two are."""
        return self.winner.value - self.loser.value

    @property
    def bound(self) -> float:
        """Largest gap that counts as a tie."""
        return max(self.winner.noise, self.loser.noise)

    @property
    def nudge(self) -> float:
        """What added to the score of the loser lets it win."""
        rounding = 4 * torch.finfo(torch.float32).eps * abs(self.loser.total)
        return max(1.1 * self.gap, self.gap + 0.1 * self.bound) / self.loser.weight + rounding

    def __str__(self) -> str:
        position = max(len(self.winner.candidate), len(self.loser.candidate)) - 2
        float64 = "not known" if self.float64_gap is None else f"{self.float64_gap:.1e}"
        return (
            f"{self.decision} at position {position}: {_described(self.winner)} and "
            f"{_described(self.loser)}: gap {self.gap:.1e} (in float64: {float64}), "
            f"bound {self.bound:.1e}"
        )


def find_ties(traced: Trace, parameters: GenerationParameters) -> Iterator[Tie]:
    """Every decision of a run whose gap is below its float noise."""
    search = Candidates(traced, parameters)
    for pairs in (search.token_pairs(), search.finished_pairs(), search.end_pairs()):
        for tie in pairs:
            if tie.gap <= tie.bound:
                yield tie
            if tie.gap == 0.0:  # nobody knows which of the two was taken
                yield Tie(tie.decision, tie.loser, tie.winner)


class Candidates:
    """The candidates of every step of a run, and what was compared of them."""

    def __init__(self, traced: Trace, parameters: GenerationParameters) -> None:
        self._parameters = parameters
        self._num_beams = parameters.num_beams
        self._num_candidates = max(2, 1 + len(parameters.eos_token_ids)) * self._num_beams
        self._steps = list(self._rank(traced.steps))
        self._totals = {side.candidate: side.total for step in self._steps for side in step}

    def total(self, candidate: Candidate) -> float | None:
        """Its sum of scores; None where it was never among the best."""
        return self._totals.get(candidate)

    def token_pairs(self) -> Iterator[Tie]:
        """Greedy search compares the best with each other; beam search, neighbours in rank."""
        for ranked in self._steps:
            if self._num_beams == 1:
                pairs: Iterable[tuple[Side, Side]] = ((ranked[0], other) for other in ranked[1:])
            else:
                pairs = itertools.pairwise(ranked[: self._num_candidates + 1])
            yield from (Tie("token", *pair) for pair in pairs)

    def finished_pairs(self) -> Iterator[Tie]:
        """Neighbours among all hypotheses that finished."""
        finished = [self._finished(side) for step in self._steps for side in self._ended(step)]
        finished.sort(key=lambda side: -side.value)
        for pair in itertools.pairwise(finished):
            yield Tie("rank of a finished hypothesis", *pair)

    def end_pairs(self) -> Iterator[Tie]:
        """After each step the best live hypothesis is compared with the worst finished one."""
        finished: list[Side] = []
        for step in self._steps:
            finished += [self._finished(side) for side in self._ended(step)]
            finished = sorted(finished, key=lambda side: -side.value)[: self._num_beams]
            live = next((side for side in step if not self._is_ended(side)), None)
            if len(finished) == self._num_beams and live is not None:
                sides = (finished[-1], self._attainable(live))
                winner, loser = sorted(sides, key=lambda side: -side.value)
                yield Tie("end of the search", winner, loser)

    def _rank(self, steps: Iterable[TracedStep]) -> Iterator[list[Side]]:
        """The best candidates of every step, best first."""
        totals: dict[Candidate, list[float]] = {}
        for number, step in enumerate(steps):
            scores = step.scores
            num_steps = 1
            if self._num_beams > 1:
                rows = [_pop(totals, prefix, row) for row, prefix in enumerate(step.prefixes)]
                scores = scores + torch.tensor(rows)[:, None]
                num_steps = number + 1
            noise = NOISE * step.logit_scale * math.sqrt(num_steps)
            count = min(2 * self._num_candidates + _NUM_SPARE, scores.numel())
            best, index = scores.flatten().topk(count)
            ranked = [
                Side((*step.prefixes[at // scores.shape[1]], at % scores.shape[1]), total, 1, noise)
                for total, at in zip(best.tolist(), index.tolist(), strict=True)
            ]
            totals = defaultdict(list)
            for side in reversed(ranked):
                totals[side.candidate].append(side.total)
            yield [side for side in ranked if side.total > _IMPOSSIBLE] or ranked[:1]

    def _is_ended(self, side: Side) -> bool:
        is_full = len(side.candidate) >= self._parameters.max_length
        return is_full or side.candidate[-1] in self._parameters.eos_token_ids

    def _ended(self, step: list[Side]) -> list[Side]:
        """Candidates that finish: only the first `num_beams` may."""
        if self._num_beams == 1:
            return []
        return [side for side in step[: self._num_beams] if self._is_ended(side)]

    def _finished(self, side: Side) -> Side:
        return self._normalised(side, len(side.candidate) - self._parameters.prompt_len)

    def _attainable(self, side: Side) -> Side:
        """The score that stands for the future of a live hypothesis."""
        wanted = self._parameters
        longest = wanted.early_stopping == "never" and wanted.length_penalty > 0
        return self._normalised(
            side, (wanted.max_length if longest else len(side.candidate)) - wanted.prompt_len
        )

    def _normalised(self, side: Side, generated_len: int) -> Side:
        weight = 1 / float(generated_len**self._parameters.length_penalty)
        return Side(side.candidate, side.total, weight, side.noise * weight)


def _pop(totals: dict[Candidate, list[float]], prefix: Candidate, row: int) -> float:
    """Sum of scores of a row so far; equal rows are told apart by their order."""
    if not totals:
        return 0.0 if row == 0 else -1e9  # only the first row counts at first
    known = totals.get(prefix)
    return known.pop() if known else -1e9


def _described(side: Side) -> str:
    *before, last = side.candidate
    return f"{last} after {[*before][-4:]} ({side.value:.7f})"
