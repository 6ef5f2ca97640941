"""Keys and values of one group of slots, which no choice of parents moves.

Both caches are laid out slot after slot, so that the running slots of a group are a narrow
view of them and attention over all of them is one batched product.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_core.key_values import KeyValues, KeyValuesPool

STEPS_OF_GROWTH = 64
"""Steps that the self-attention cache has room for at first, and by which it grows."""
_MIN_STEPS_OF_ROOM = 4
_MIN_ROOM = 16  # entries, to write before a collection


class CrossAttentionCache:
    """Keys and values of the sources; written at admission, then read-only.

    Args:
        pool: Where its memory comes from.
        num_slots: Slots in the group.
        source_capacity: Longest source that a slot can hold.
    """

    def __init__(self, pool: KeyValuesPool, num_slots: int, source_capacity: int) -> None:
        layout = pool.layout
        self._pool = pool
        self._entries = pool.take(num_slots, source_capacity)
        self._bias = torch.full(
            (num_slots, source_capacity), -torch.inf, dtype=layout.dtype, device=layout.device
        )
        self._source_lens = [0] * num_slots
        self._view: tuple[KeyValues, Tensor] | None = None  # until a slot changes

    def open(self, slot: int, source_len: int) -> None:
        """Make a slot ready for a source; `write` stores it."""
        self._bias[slot] = -torch.inf
        self._bias[slot, :source_len] = 0
        self._source_lens[slot] = source_len
        self._view = None

    def write(self, slot: int, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store a source in one layer: keys and values, each [source_len, num_heads, head_dim]."""
        source_len = self._source_lens[slot]
        self._entries.keys[layer, slot, :, :source_len] = keys.transpose(0, 1)
        self._entries.values[layer, slot, :, :source_len] = values.transpose(0, 1)

    def erase(self, slot: int) -> None:
        """Leave nothing of a slot."""
        self._entries.erase(slot, self._source_lens[slot])

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another."""
        self._entries.move(source, destination, self._source_lens[source])
        self._bias[destination] = self._bias[source]
        self._source_lens[destination] = self._source_lens[source]
        self._view = None

    def resize(self, num_slots: int, *, num_used: int) -> None:
        """Change the number of slots; the first `num_used` stay as they are."""
        longest = max(self._source_lens[:num_used], default=0)
        capacity = self._bias.shape[1]
        self._entries = self._pool.resized(
            self._entries, num_slots, capacity, num_used=num_used, used_len=longest
        )
        bias = self._bias.new_full((num_slots, capacity), -torch.inf)
        bias[:num_used] = self._bias[:num_used]
        self._bias = bias
        self._source_lens = self._source_lens[:num_used] + [0] * (num_slots - num_used)
        self._view = None

    def close(self) -> None:
        """Give the memory back."""
        self._pool.give_back(self._entries)

    def view(self, num_slots: int, num_beams: int) -> tuple[KeyValues, Tensor]:
        """The first `num_slots` slots, up to their longest source.

        Returns:
            Keys and values, and the additive mask `[num_slots * num_heads, num_beams, source_len]`.
        """
        if self._view is None or self._view[0].keys.shape[1] != num_slots:
            source_len = max(self._source_lens[:num_slots])
            bias = self._bias[:num_slots, None, None, :source_len].expand(-1, -1, num_beams, -1)
            entries = self._entries.narrow(num_slots, 0, source_len)
            self._view = entries, _of_heads(bias, self._pool.layout.num_heads)
        return self._view


@dataclass(frozen=True, slots=True)
class SelfAttentionStep:
    """One step's view of a group's self-attention cache, the same for all layers.

    Attributes:
        entries: Keys and values, each `[num_layers, num_slots, num_heads, entries, head_dim]`.
        written: Those of this step, `[num_layers, num_slots, num_heads, num_beams, head_dim]`.
        biases: Additive mask (and position bias), `[num_slots * num_heads, num_beams, entries]`:
            one for all layers, or one for each.
    """

    entries: KeyValues
    written: KeyValues
    biases: tuple[Tensor, ...]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store this step's keys and values, each `[num_slots, num_beams, num_heads, head_dim]`."""
        written_keys, written_values = self.written.by_layer[layer]
        written_keys.copy_(keys.transpose(1, 2))
        written_values.copy_(values.transpose(1, 2))


class SelfAttentionCache:
    """Keys and values of the targets of one group, and the ancestry of its hypotheses.

    All slots of a group write the same `num_beams` entries in a step, one for each beam row,
    whatever the lengths of their targets. So a step stores its keys by one plain copy.

    Choosing parents changes `ancestry` only. It is kept as the additive mask that attention wants:
    0 where the hypothesis that now is row `b` wrote the entry, minus infinity elsewhere.

    What no hypothesis has in its past is garbage: most of what beams wrote before they last had
    an ancestor in common, and all that requests wrote which have ended. Attention reads it all the
    same. So it is collected once enough was written: entries in use move into the places of
    garbage before them, and what lies behind is free. Where nearly all is in use the cache grows.

    Args:
        pool: Where its memory comes from.
        num_slots: Slots in the group.
        num_beams: Hypotheses per slot.
    """

    def __init__(self, pool: KeyValuesPool, num_slots: int, num_beams: int) -> None:
        layout = pool.layout
        self._pool = pool
        self._num_beams = num_beams
        self._growth = STEPS_OF_GROWTH * num_beams
        self._entries = pool.take(num_slots, self._growth)
        self._num_entries = 0
        """Written since the cache was empty, or in use after a collection and written since."""
        self._most_entries = self._most_after(0)
        """Before a collection."""
        self._now = 0
        self._ancestry = torch.full(
            (num_slots, num_beams, self._growth),
            -torch.inf,
            dtype=layout.dtype,
            device=layout.device,
        )
        self._written_at = torch.zeros(
            (num_slots, self._growth), dtype=torch.long, device=layout.device
        )
        own = torch.full((num_beams, num_beams), -torch.inf, dtype=layout.dtype)
        self._own = own.fill_diagonal_(0).to(layout.device)

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new request."""
        self._ancestry[slot] = -torch.inf

    def erase(self, slot: int) -> None:
        """Leave nothing of a slot."""
        self._entries.erase(slot, self._num_entries)

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another."""
        self._ancestry[destination] = self._ancestry[source]
        self._written_at[destination] = self._written_at[source]
        self._entries.move(source, destination, self._num_entries)

    def resize(self, num_slots: int, *, num_used: int) -> None:
        """Change the number of slots; the first `num_used` stay as they are."""
        self._reallocate(num_slots, self._entries.keys.shape[3], num_used=num_used)

    def close(self) -> None:
        """Give the memory back."""
        self._pool.give_back(self._entries)

    def choose_parents(self, parents: Tensor) -> None:
        """Let row `b` of slot `s` continue row `parents[s, b]`; [num_slots, num_beams]."""
        lineage = self._ancestry[: parents.shape[0], :, : self._num_entries]
        lineage.copy_(select_rows(lineage, parents))

    def step(
        self, num_slots: int, position_biases: Sequence["PositionBias"] = ()
    ) -> SelfAttentionStep:
        """Prepare a step of the first `num_slots` slots.

        Args:
            num_slots: Slots in use.
            position_biases: Relative-position biases of the decoder; see `Decoder`.
        """
        if self._num_entries + self._num_beams > self._most_entries:
            self._collect(num_slots)
        first, last = self._num_entries, self._num_entries + self._num_beams
        self._ancestry[:num_slots, :, first:last] = self._own
        self._written_at[:num_slots, first:last] = self._now
        self._num_entries = last
        biases = self._layer_biases(num_slots, position_biases)
        self._now += 1
        return SelfAttentionStep(
            self._entries.narrow(num_slots, 0, last),
            self._entries.narrow(num_slots, first, last),
            biases,
        )

    def _layer_biases(
        self, num_slots: int, position_biases: Sequence["PositionBias"]
    ) -> tuple[Tensor, ...]:
        """The mask of what was written, with the position bias of each layer."""
        visible = self._ancestry[:num_slots, None, :, : self._num_entries]
        num_heads = self._pool.layout.num_heads
        if not position_biases:
            return (_of_heads(visible, num_heads),)
        distances = self._now - self._written_at[:num_slots, : self._num_entries]
        return tuple(
            _of_heads(visible + relative(distances).transpose(0, 1)[:, :, None], num_heads)
            for relative in position_biases
        )

    def _most_after(self, num_entries: int) -> int:
        """Entries before the next collection, where so many are in use.

        Few, so that attention reads little garbage; more where more is in use, since to look for
        garbage, and to grow, takes as long as there are entries.
        """
        room = max(_MIN_STEPS_OF_ROOM * self._num_beams, _MIN_ROOM, num_entries // 4)
        return num_entries + min(room, self._growth)

    def _collect(self, num_slots: int) -> None:
        """Free what no hypothesis of the first `num_slots` slots has in its past."""
        lineage = self._ancestry[:num_slots, :, : self._num_entries]
        in_use = (lineage == 0).any(1)
        most = int(in_use.sum(1).max())
        behind, free = in_use[:, most:], ~in_use[:, :most]
        # As many places, from the first, as the slot has entries behind them.
        free &= free.cumsum(1) <= behind.sum(1, keepdim=True)
        slots, sources = behind.nonzero().unbind(1)
        if len(slots):
            destinations = free.nonzero()[:, 1]
            self._move_entries(slots, sources + most, destinations)
        lineage[:, :, most:] = -torch.inf
        self._num_entries = most
        self._most_entries = self._most_after(most)
        num_slots, capacity = self._written_at.shape
        if self._most_entries > capacity:
            self._reallocate(num_slots, capacity + self._growth, num_used=num_slots)

    def _move_entries(self, slots: Tensor, sources: Tensor, destinations: Tensor) -> None:
        """Copy entries within their slots; all [num_entries]."""
        self._ancestry[slots, :, destinations] = self._ancestry[slots, :, sources]
        self._written_at[slots, destinations] = self._written_at[slots, sources]
        self._entries.move_entries(slots, sources, destinations)

    def _reallocate(self, num_slots: int, capacity: int, *, num_used: int) -> None:
        self._entries = self._pool.resized(
            self._entries, num_slots, capacity, num_used=num_used, used_len=self._num_entries
        )
        written = slice(self._num_entries)
        shape = (num_slots, self._num_beams, capacity)
        ancestry = self._ancestry.new_full(shape, -torch.inf)
        ancestry[:num_used, :, written] = self._ancestry[:num_used, :, written]
        written_at = self._written_at.new_zeros((num_slots, capacity))
        written_at[:num_used, written] = self._written_at[:num_used, written]
        self._ancestry, self._written_at = ancestry, written_at


class PositionBias:
    """Relative-position bias of T5, by distance.

    Args:
        by_distance: [num_heads, num_distances]; farther distances share the last one.
    """

    def __init__(self, by_distance: Tensor) -> None:
        self.by_distance = by_distance.contiguous()

    def __call__(self, distances: Tensor) -> Tensor:
        """Bias of entries written so many steps ago, of any shape: [num_heads, *shape]."""
        return self.by_distance[:, distances.clamp(0, self.by_distance.shape[1] - 1)]


def _of_heads(bias: Tensor, num_heads: int) -> Tensor:
    """[num_slots, 1 or num_heads, num_beams, entries] -> [num_slots * num_heads, ...]."""
    return bias.expand(-1, num_heads, -1, -1).flatten(0, 1)


def select_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `index` of each slot: [num_slots, n, ...], [num_slots, m] -> [num_slots, m, ...]."""
    num_slots, num_rows = rows.shape[:2]
    first = torch.arange(0, num_slots * num_rows, num_rows, device=index.device)[:, None]
    chosen = rows.reshape(num_slots * num_rows, -1).index_select(0, (index + first).flatten())
    return chosen.view(*index.shape, *rows.shape[2:])
