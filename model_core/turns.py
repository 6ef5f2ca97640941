"""Whose turn it is among several who want a share: weighted fair queueing by virtual time."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)


class Turns(Generic[_Key]):
    """Takes turns among keys, in proportion to their weights; numbers only.

    Whoever waits is due at a virtual time, and whoever is due first goes next; what it takes moves
    its next turn back. Virtual time moves with all that is taken, so that a newcomer is due now:
    it passes those who have had their share lately, and not for ever those who wait. Who leaves
    keeps what it owes, until virtual time has come to it or nobody waits.

    Source: start-time fair queueing (Goyal et al., 1996), with the virtual time of WF2Q+ (Bennett
    and Zhang, 1997).
    """

    def __init__(self, weights: Mapping[_Key, float] | None = None) -> None:
        """Begin with nobody.

        Args:
            weights: Shares of those that are not 1. Of two who are due at once, the one that is
                named first here goes first; others go in the order in which they came.
        """
        self._weights = dict(weights or {})
        self._rank = {key: number for number, key in enumerate(self._weights)}
        self._now = 0.0
        self._waiting: dict[_Key, None] = {}  # a set that keeps its order
        self._due: dict[_Key, float] = {}  # of those who wait, and of those who owe

    @property
    def next(self) -> _Key:
        """Who goes next; somebody has to wait."""
        return min(self._waiting, key=lambda key: (self._due[key], self._rank_of(key)))

    def join(self, key: _Key) -> None:
        """Take turns from now on; nothing happens to one who does already."""
        if key not in self._waiting:
            self._due[key] = self._due_of(key)
            self._waiting[key] = None

    def ahead_of(self, key: _Key, work: float) -> Iterator[tuple[_Key, float]]:
        """Who else comes before somebody who has taken so much from now on, or would have.

        Each comes with the work that it has taken by then; a turn that begins before may go on.
        """
        due = self._due_of(key) + work / self._weight(key)
        for other in self._waiting:
            its_due = self._due[other]
            is_first = (its_due, self._rank_of(other)) <= (due, self._rank_of(key))
            if other != key and is_first:
                yield other, (due - its_due) * self._weight(other)

    def charge(self, key: _Key, work: float) -> None:
        """Count what somebody who waits took in its turn."""
        due = self._due[key]
        self._due[key] = due + work / self._weight(key)
        self._now = max(due, self._now + work / sum(map(self._weight, self._waiting)))

    def leave(self, key: _Key) -> None:
        """Take no more turns."""
        del self._waiting[key]
        if not self._waiting:
            self._now = 0.0
            self._due.clear()
            return
        for other in [each for each, due in self._due.items() if due <= self._now]:
            if other not in self._waiting:
                del self._due[other]

    def _due_of(self, key: _Key) -> float:
        """When it is due, or would be if it came now."""
        due = self._due.get(key, 0.0)
        return due if key in self._waiting else max(self._now, due)

    def _rank_of(self, key: _Key) -> int:
        return self._rank.get(key, 0)

    def _weight(self, key: _Key) -> float:
        return self._weights.get(key, 1.0)
