"""Is a difference from `generate()` a tie that float noise decides? Shown, or not excused.

The logits of a row alone and in a batch differ by about 1e-6 of their scale, because a product of
matrices adds up in another order. Two candidates that are closer than that may change places, and
everything after them changes too. A difference is excused only where all of this is shown:

1. `generate()` is run again and its decisions are read: a gap between two candidates that it
   compared is below the float noise of their scores (`ties.NOISE`).
2. With the loser of that tie nudged over the gap, `generate()` gives our answer, every token of
   it. A wrong token elsewhere stays wrong, whatever ties there are.
3. In a float64 copy of the model the gap is below the bound too, where that can be asked.
"""

import copy
import heapq
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from model_core.request import Output
from model_core.verification.compare import common_length, compare_hypotheses
from model_core.verification.reference import Asked, Candidate, Reference, Trace, trace
from model_core.verification.ties import Candidates, Tie, find_ties

_MAX_RUNS = 24
_MAX_FLOAT64_PARAMETERS = 500_000_000


def explain(reference: Reference, output: Output) -> tuple[Tie, ...] | None:
    """The ties that make `generate()` give our answer once they are turned; None for no excuse."""
    return _Judge(reference, output).explain()


class _Judge:
    """Turns ties of one request until `generate()` gives our answer."""

    def __init__(self, reference: Reference, output: Output) -> None:
        self._asked = reference.asked
        self._wanted = output.hypotheses

    def explain(self) -> tuple[Tie, ...] | None:
        """See `explain`. What agrees longest with our answer is followed up first."""
        order = itertools.count()
        waiting: list[tuple[int, int, tuple[Tie, ...]]] = [(0, next(order), ())]
        tried = {frozenset[Candidate]()}
        for _ in range(_MAX_RUNS):
            if not waiting:
                return None
            *_, turned = heapq.heappop(waiting)
            nudges = {tie.loser.candidate: tie.nudge for tie in turned}
            traced = trace(self._asked, nudges)
            if self._is_ours(traced):
                return self._confirmed(turned)
            for tie in self._useful_ties(traced):
                nudged = frozenset({*nudges, tie.loser.candidate})
                if nudged not in tried:
                    tried.add(nudged)
                    item = (-self._agreement(traced), next(order), (*turned, tie))
                    heapq.heappush(waiting, item)
        return None

    def _is_ours(self, traced: Trace) -> bool:
        penalty = self._asked.parameters.length_penalty
        return compare_hypotheses(self._wanted, traced.hypotheses, penalty).is_same

    def _useful_ties(self, traced: Trace) -> Iterator[Tie]:
        """Greedy search can only come nearer to our answer where it first leaves it."""
        for tie in find_ties(traced, self._asked.parameters):
            target = tie.loser.candidate[1:]
            is_greedy = self._asked.parameters.num_beams == 1
            if not is_greedy or target == self._wanted[0].token_ids[: len(target)]:
                yield tie

    def _agreement(self, traced: Trace) -> int:
        """Tokens that a run has in common with our answer."""
        return sum(
            common_length(ours.token_ids, theirs.token_ids)
            for ours, theirs in zip(self._wanted, traced.hypotheses, strict=False)
        )

    def _confirmed(self, turned: tuple[Tie, ...]) -> tuple[Tie, ...] | None:
        """The ties with their gaps in float64; None where one of them is no tie there."""
        if self._float64 is None:
            return turned
        confirmed = []
        nudges: dict[Candidate, float] = {}
        for tie in turned:
            tie = replace(tie, float64_gap=self._float64_gap(tie, nudges))
            if tie.float64_gap is not None and abs(tie.float64_gap) > tie.bound:
                return None
            confirmed.append(tie)
            nudges[tie.loser.candidate] = tie.nudge
        return tuple(confirmed)

    def _float64_gap(self, tie: Tie, nudges: Mapping[Candidate, float]) -> float | None:
        assert self._float64 is not None
        run = Candidates(trace(self._float64, nudges), self._asked.parameters)
        winner, loser = run.total(tie.winner.candidate), run.total(tie.loser.candidate)
        if winner is None or loser is None:
            return None
        return winner * tie.winner.weight - loser * tie.loser.weight

    @cached_property
    def _float64(self) -> Asked | None:
        model: Any = self._asked.model
        if model.num_parameters() > _MAX_FLOAT64_PARAMETERS:
            return None
        return replace(self._asked, model=copy.deepcopy(model).double())
