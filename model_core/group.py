"""Slots: requests with the same `num_beams` and similar lengths, side by side.

Attention runs group by group on narrow views, so that a short sentence never pays for a long
article. Slots in use are always the first ones: when a request ends, the last slot moves into
the hole. There are never more slots than four times those in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from model_core.attention import attend
from model_core.cache import (
    CrossAttentionCache,
    PositionBias,
    SelfAttentionCache,
    SelfAttentionStep,
)
from model_core.key_values import KeyValues, KeyValuesPool
from model_core.request import Output, Request
from model_core.search import Search
from model_core.slot_cost import Capacity


@dataclass(frozen=True, slots=True)
class Chosen:
    """Who leaves a group after a step.

    Attributes:
        finished: Requests that ended, with their results.
        failed: Requests without a token, or a hypothesis, of a finite score.
    """

    finished: list[tuple[Request, Output]] = field(default_factory=list)
    failed: list[Request] = field(default_factory=list)


class Group:
    """Requests that attend together: their slots in both caches and their search.

    Args:
        pool: Where the memory of its caches comes from.
        search: Decides the tokens; gives `num_beams`.
        max_slots: Most requests.
        num_slots: Requests that are expected soon.
        capacity: Of every slot.
        position_biases: Relative-position biases of the decoder; see `Decoder`.
    """

    def __init__(
        self,
        pool: KeyValuesPool,
        search: Search,
        *,
        max_slots: int,
        num_slots: int = 1,
        capacity: Capacity,
        position_biases: Sequence[PositionBias] = (),
    ) -> None:
        self.search = search
        self.capacity = capacity
        self.requests: list[Request] = []
        self._max_slots = max_slots
        self._position_biases = position_biases
        self.num_slots = min(num_slots, max_slots)
        self._cross_cache = CrossAttentionCache(pool, self.num_slots, capacity.source)
        self._self_cache = SelfAttentionCache(pool, self.num_slots, search.num_beams)
        self._sources: tuple[KeyValues, Tensor]
        self._targets: SelfAttentionStep

    @property
    def num_beams(self) -> int:
        """Hypotheses per slot."""
        return self.search.num_beams

    @property
    def num_rows(self) -> int:
        """Hypotheses in use."""
        return len(self.requests) * self.num_beams

    @property
    def is_full(self) -> bool:
        """Whether every slot is taken."""
        return len(self.requests) == self._max_slots

    def admit(self, request: Request) -> int:
        """Give a request the next slot; `write_source` stores its source there."""
        if len(self.requests) == self.num_slots:
            self._resize(min(2 * self.num_slots, self._max_slots))
        (slot,) = self.search.admit([(request.parameters, request.source_ids)])
        self.requests.append(request)
        self._cross_cache.open(slot, request.source_len)
        self._self_cache.clear(slot)
        return slot

    def write_source(self, slot: int, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store a source in one layer: keys and values, each [source_len, num_heads, head_dim]."""
        self._cross_cache.write(slot, layer, keys, values)

    def give_up(self, request: Request) -> None:
        """Free the slot of a request that did not finish: leave nothing that is not a number."""
        self._erase(request)
        self.remove(request)

    def remove(self, request: Request) -> None:
        """Free the slot of a request; the last slot moves into the hole."""
        for hole, last in self.search.remove([self.requests.index(request)]):
            self._cross_cache.move(last, hole)
            self._self_cache.move(last, hole)
            self.requests[hole] = self.requests[last]
        self.requests.pop()
        if 0 < len(self.requests) * 4 <= self.num_slots:
            self._resize(self.num_slots // 2)

    def close(self) -> None:
        """Give the memory of the caches back."""
        self._cross_cache.close()
        self._self_cache.close()

    def begin_step(self) -> tuple[Tensor, Tensor]:
        """Prepare the caches for a step.

        Returns:
            Last token and its position of every hypothesis, both [num_rows].
        """
        positions = self.search.positions
        self._sources = self._cross_cache.view(len(self.requests), self.num_beams)
        self._targets = self._self_cache.step(len(self.requests), self._position_biases)
        token_ids = self.search.last_token_ids
        rows = positions.to(token_ids.device).repeat_interleave(self.num_beams)
        return token_ids.flatten(), rows

    def self_attention(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `AttentionContext`."""
        self._targets.write(layer, self._by_slot(key), self._by_slot(value))
        targets = self._targets
        return attend(self._by_slot(query), targets.entries, targets.biases, layer)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        """See `AttentionContext`."""
        entries, bias = self._sources
        return attend(self._by_slot(query), entries, (bias,), layer)

    def choose(self, logits: Tensor) -> Chosen:
        """Let the search choose from the logits of this step, [num_rows, vocab].

        Returns:
            The requests that leave; their slots are free.
        """
        choice = self.search.advance(logits)
        if choice.parents is not None:
            self._self_cache.choose_parents(choice.parents)
        chosen = Chosen()
        ended = zip(self.requests, choice.done.tolist(), choice.failed.tolist(), strict=True)
        for slot, (request, done, failed) in enumerate(ended):
            hypotheses = self.search.hypotheses(slot) if done else ()
            if failed or (done and not hypotheses):
                chosen.failed.append(request)
            elif done:
                chosen.finished.append((request, Output.of(request, hypotheses)))
        leaving = {*chosen.failed, *(request for request, _ in chosen.finished)}
        # Before any slot moves or memory is given back: neither may hold what is not a number.
        for request in chosen.failed:
            self._erase(request)
        # From the back, so that a slot that moves is one that stays.
        for request in reversed([each for each in self.requests if each in leaving]):
            self.remove(request)
        return chosen

    def _erase(self, request: Request) -> None:
        slot = self.requests.index(request)
        self._cross_cache.erase(slot)
        self._self_cache.erase(slot)

    def _resize(self, num_slots: int) -> None:
        """Double or halve the slots: what is copied stays a fraction of what was decoded."""
        num_used = len(self.requests)
        self._cross_cache.resize(num_slots, num_used=num_used)
        self._self_cache.resize(num_slots, num_used=num_used)
        self.num_slots = num_slots

    def _by_slot(self, rows: Tensor) -> Tensor:
        """[num_rows, num_heads, head_dim] -> [num_slots, num_beams, num_heads, head_dim]."""
        return rows.view(-1, self.num_beams, *rows.shape[1:])
