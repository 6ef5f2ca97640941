"""An answer held against that of `generate()`."""

import math
from dataclasses import dataclass

from model_core.library import NEVER_FINISHED
from model_core.request import Hypothesis, Output
from model_core.verification.reference import Reference

SCORE_TOLERANCE = 1e-4
"""Largest deviation of a score, `|ours - theirs| / (1 + |theirs|)`, in float32.

With a negative length penalty, of the sum of log-probabilities that the score is made from.
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two answers part.

    Attributes:
        rank: Of the hypothesis, best first.
        position: Of the first token that differs, counted from 0 after the decoder start token;
            None where all tokens are equal and something else differs.
        ours: Our hypothesis; None where we have fewer.
        theirs: That of `generate()`; None where it has fewer.
    """

    rank: int
    position: int | None
    ours: Hypothesis | None
    theirs: Hypothesis | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing one answer.

    Attributes:
        difference: The first difference in tokens or finish reasons; None where there is none.
        score_deviation: The largest of all hypotheses up to the difference; see SCORE_TOLERANCE.
    """

    difference: Difference | None
    score_deviation: float

    @property
    def is_same(self) -> bool:
        """Whether tokens, finish reasons and, within their tolerance, scores are equal."""
        return self.difference is None and self.score_deviation <= SCORE_TOLERANCE


def compare(output: Output, reference: Reference) -> Comparison:
    """Hold an answer against that of `generate()`."""
    return compare_hypotheses(
        output.hypotheses, reference.hypotheses, reference.asked.parameters.length_penalty
    )


def compare_hypotheses(
    ours: tuple[Hypothesis, ...], theirs: tuple[Hypothesis, ...], length_penalty: float
) -> Comparison:
    """Hold hypotheses, best first, against those of `generate()`."""
    missing = theirs[len(ours) :]
    if all(each.score < NEVER_FINISHED for each in missing):
        theirs = theirs[: len(ours)]
    deviation = 0.0
    for rank in range(max(len(ours), len(theirs))):
        mine = ours[rank] if rank < len(ours) else None
        other = theirs[rank] if rank < len(theirs) else None
        if mine is None or other is None or not _is_same(mine, other):
            return Comparison(Difference(rank, _position(mine, other), mine, other), deviation)
        # A negative penalty multiplies a sum with its length, and its float noise too.
        scale = min(1.0, float(max(1, len(mine.token_ids)) ** length_penalty))
        deviation = max(deviation, _deviation(mine.score * scale, other.score * scale))
    return Comparison(None, deviation)


def _is_same(ours: Hypothesis, theirs: Hypothesis) -> bool:
    return ours.token_ids == theirs.token_ids and ours.finish_reason == theirs.finish_reason


def _deviation(ours: float, theirs: float) -> float:
    deviation = abs(ours - theirs) / (1 + abs(theirs))
    return deviation if math.isfinite(deviation) else math.inf  # NaN is below every bound


def _position(ours: Hypothesis | None, theirs: Hypothesis | None) -> int | None:
    if ours is None or theirs is None or ours.token_ids == theirs.token_ids:
        return None
    return common_length(ours.token_ids, theirs.token_ids)


def common_length(ours: tuple[int, ...], theirs: tuple[int, ...]) -> int:
    """How many tokens two targets have in common from their beginning."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
