"""Keys and values of one group of slots: written once, never moved by beam search.

Both caches are laid out slot after slot, so that the running slots of a group are a narrow
view of them and attention over all of them is one batched product.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_core.key_values import KeyValues, KeyValuesPool

BLOCK_LEN = 64
"""Steps in one block of the self-attention cache."""


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
        self._entries.erase(slot, 0, self._source_lens[slot])

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another."""
        self._entries.move(source, destination, 0, self._source_lens[source])
        self._bias[destination] = self._bias[source]
        self._source_lens[destination] = self._source_lens[source]
        self._view = None

    def resize(self, num_slots: int, *, num_used: int) -> None:
        """Change the number of slots; the first `num_used` stay as they are."""
        longest = max(self._source_lens[:num_used], default=0)
        self._entries = self._pool.resized(
            self._entries, num_slots, num_used=num_used, first=0, last=longest
        )
        bias = self._bias.new_full((num_slots, self._bias.shape[1]), -torch.inf)
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
        blocks: Keys and values, each `[num_layers, num_slots, num_heads, entries, head_dim]`.
        written: Entries of this step, `[num_layers, num_slots, num_heads, num_beams, head_dim]`.
        biases: Per block, additive mask (and position bias), `[num_slots * num_heads, num_beams,
            entries]`: one for all layers, or one for each.
    """

    blocks: tuple[KeyValues, ...]
    written: KeyValues
    biases: tuple[tuple[Tensor, ...], ...]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store this step's keys and values, each `[num_slots, num_beams, num_heads, head_dim]`."""
        written_keys, written_values = self.written.by_layer[layer]
        written_keys.copy_(keys.transpose(1, 2))
        written_values.copy_(values.transpose(1, 2))


class SelfAttentionCache:
    """Keys and values of the targets of one group, and the ancestry of its hypotheses.

    All slots of a group write the same entries in a step, whatever the lengths of their targets:
    what beam row `b` writes in step `t` of the group is entry `t * num_beams + b`, written once. A
    slot looks back to the step in which its request joined. So a step stores its keys by one plain
    copy.

    Choosing parents changes `ancestry` only. It is kept as the additive mask that attention wants:
    0 where the hypothesis that now is row `b` wrote the entry, minus infinity elsewhere.

    It grows by blocks of `BLOCK_LEN` steps; what is there is never copied. A block to which no slot
    looks back any more becomes the next one.

    Args:
        pool: Where its memory comes from.
        num_slots: Slots in the group.
        num_beams: Hypotheses per slot.
    """

    def __init__(self, pool: KeyValuesPool, num_slots: int, num_beams: int) -> None:
        layout = pool.layout
        self._pool = pool
        self._num_slots = num_slots
        self._num_beams = num_beams
        self._blocks: list[KeyValues] = []
        self._now = 0
        """Steps since the first of the first block."""
        self._starts = [0] * num_slots
        self._ancestry = torch.empty(
            (num_slots, num_beams, 0), dtype=layout.dtype, device=layout.device
        )
        own = torch.full((num_beams, num_beams), -torch.inf, dtype=layout.dtype)
        self._own = own.fill_diagonal_(0).to(layout.device)

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new request."""
        self._starts[slot] = self._now
        self._ancestry[slot] = -torch.inf

    def erase(self, slot: int) -> None:
        """Leave nothing of a slot."""
        for block, first, last in self._spans(self._starts[slot]):
            block.erase(slot, first, last)

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another."""
        self._ancestry[destination] = self._ancestry[source]
        self._starts[destination] = self._starts[source]
        for block, first, last in self._spans(self._starts[source]):
            block.move(source, destination, first, last)

    def resize(self, num_slots: int, *, num_used: int) -> None:
        """Change the number of slots; the first `num_used` stay as they are."""
        oldest = min(self._starts[:num_used], default=self._now)
        spans = list(self._spans(oldest))
        for unwritten in self._blocks[len(spans) :]:
            self._pool.give_back(unwritten)
        self._blocks = [
            self._pool.resized(block, num_slots, num_used=num_used, first=first, last=last)
            for block, first, last in spans
        ]
        shape = (num_slots, self._num_beams, len(self._blocks) * BLOCK_LEN * self._num_beams)
        ancestry = self._ancestry.new_full(shape, -torch.inf)
        ancestry[:num_used] = self._ancestry[:num_used, :, : shape[2]]
        self._ancestry = ancestry
        self._starts = self._starts[:num_used] + [self._now] * (num_slots - num_used)
        self._num_slots = num_slots

    def close(self) -> None:
        """Give the memory back."""
        for block in self._blocks:
            self._pool.give_back(block)
        self._blocks = []

    def choose_parents(self, parents: Tensor) -> None:
        """Let row `b` of slot `s` continue row `parents[s, b]`; [num_slots, num_beams]."""
        num_slots = parents.shape[0]
        last = self._now * self._num_beams
        first = min(self._starts[:num_slots]) * self._num_beams
        lineage = self._ancestry[:num_slots, :, first:last]
        lineage.copy_(select_rows(lineage, parents))

    def step(
        self, num_slots: int, position_biases: Sequence["PositionBias"] = ()
    ) -> SelfAttentionStep:
        """Prepare a step of the first `num_slots` slots.

        Args:
            num_slots: Slots in use.
            position_biases: Relative-position biases of the decoder; see `Decoder`.
        """
        self._forget(min(self._starts[:num_slots]))
        if self._now == len(self._blocks) * BLOCK_LEN:
            self._grow()
        oldest, num_beams = min(self._starts[:num_slots]), self._num_beams
        entry = self._now * num_beams
        self._ancestry[:num_slots, :, entry : entry + num_beams] = self._own
        self._now += 1

        blocks, biases = [], []
        for index, (block, first, last) in enumerate(self._spans(oldest)):
            blocks.append(block.narrow(num_slots, first, last))
            offset = index * BLOCK_LEN * num_beams
            visible = self._ancestry[:num_slots, None, :, offset + first : offset + last]
            biases.append(self._layer_biases(visible, offset + first, position_biases))
        written = block.narrow(num_slots, last - num_beams, last)
        return SelfAttentionStep(tuple(blocks), written, tuple(biases))

    def _spans(self, start: int) -> Iterator[tuple[KeyValues, int, int]]:
        """Blocks that were written to, and in each where what came from step `start` on lies."""
        for index in range(math.ceil(self._now / BLOCK_LEN)):
            last = min(self._now - index * BLOCK_LEN, BLOCK_LEN)
            first = min(max(start - index * BLOCK_LEN, 0), last)
            yield self._blocks[index], first * self._num_beams, last * self._num_beams

    def _layer_biases(
        self, visible: Tensor, first: int, position_biases: Sequence["PositionBias"]
    ) -> tuple[Tensor, ...]:
        """The mask of some entries, from entry `first` on, with the position bias of each layer."""
        if not position_biases:
            return (_of_heads(visible, self._pool.layout.num_heads),)
        steps = torch.arange(first, first + visible.shape[3], device=visible.device)
        distances = self._now - 1 - steps // self._num_beams
        num_heads = self._pool.layout.num_heads
        return tuple(
            _of_heads(visible + relative(distances), num_heads) for relative in position_biases
        )

    def _forget(self, oldest: int) -> None:
        """Put blocks to which nobody looks back behind the others, to be written again."""
        num_blocks = oldest // BLOCK_LEN
        if num_blocks == 0:
            return
        self._blocks = self._blocks[num_blocks:] + self._blocks[:num_blocks]
        shift = num_blocks * BLOCK_LEN
        self._now -= shift
        self._starts = [max(start - shift, 0) for start in self._starts]
        self._ancestry = self._ancestry.roll(-shift * self._num_beams, dims=2)
        self._ancestry[:, :, self._now * self._num_beams :] = -torch.inf

    def _grow(self) -> None:
        num_entries = BLOCK_LEN * self._num_beams
        self._blocks.append(self._pool.take(self._num_slots, num_entries))
        shape = (self._num_slots, self._num_beams, num_entries)
        unwritten = self._ancestry.new_full(shape, -torch.inf)
        self._ancestry = torch.cat((self._ancestry, unwritten), dim=2)


class PositionBias:
    """Relative-position bias of T5 by distance: the same for all slots, which step together.

    Args:
        by_distance: [num_heads, num_distances]; farther distances share the last one.
    """

    def __init__(self, by_distance: Tensor) -> None:
        self.by_distance = by_distance.contiguous()

    def __call__(self, distances: Tensor) -> Tensor:
        """Bias of entries written so many steps ago, [entries]: [num_heads, 1, entries]."""
        return self.by_distance[:, distances.clamp(0, self.by_distance.shape[1] - 1)][:, None]


def _of_heads(bias: Tensor, num_heads: int) -> Tensor:
    """[num_slots, 1 or num_heads, num_beams, entries] -> [num_slots * num_heads, ...]."""
    return bias.expand(-1, num_heads, -1, -1).flatten(0, 1)


def select_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `index` of each slot: [num_slots, n, ...], [num_slots, m] -> [num_slots, m, ...]."""
    num_slots, num_rows = rows.shape[:2]
    first = torch.arange(0, num_slots * num_rows, num_rows, device=index.device)[:, None]
    chosen = rows.reshape(num_slots * num_rows, -1).index_select(0, (index + first).flatten())
    return chosen.view(*index.shape, *rows.shape[2:])
