"""Keys and values of one group of slots: written once, never moved by beam search.

Both caches are laid out slot after slot, so that the running slots of a group are a narrow
view of them and attention over all of them is one batched product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK_LEN = 64
"""Target positions in one block of the self-attention cache."""


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """Shape of one token's keys in all layers, and where they live."""

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        keys_and_values = 2
        per_layer = self.num_heads * self.head_dim * self.dtype.itemsize
        return keys_and_values * self.num_layers * per_layer


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values, each `[num_layers, num_slots, num_heads, length, head_dim]`."""

    keys: Tensor
    values: Tensor

    @classmethod
    def allocate(cls, layout: CacheLayout, num_slots: int, length: int) -> "KeyValues":
        """Room for `num_slots` times `length` entries."""
        shape = (layout.num_layers, num_slots, layout.num_heads, length, layout.head_dim)
        return cls(_lazy_zeros(shape, layout), _lazy_zeros(shape, layout))

    def resized(
        self, layout: CacheLayout, num_slots: int, *, num_used: int, length: int
    ) -> "KeyValues":
        """The same for another number of slots; the first `num_used` are copied up to `length`."""
        new = KeyValues.allocate(layout, num_slots, self.keys.shape[3])
        for tensor, old in ((new.keys, self.keys), (new.values, self.values)):
            tensor[:, :num_used, :, :length] = old[:, :num_used, :, :length]
        return new

    def erase(self, slot: int) -> None:
        """Leave nothing of a slot: masked entries take part in products, and 0 times NaN is NaN."""
        self.keys[:, slot] = 0
        self.values[:, slot] = 0

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first `length` entries of one slot over another."""
        for tensor in (self.keys, self.values):
            tensor[:, destination, :, :length] = tensor[:, source, :, :length]


def _lazy_zeros(shape: tuple[int, ...], layout: CacheLayout) -> Tensor:
    """Zeros, whose memory a CPU commits page by page on first use.

    Not uninitialised: masked entries take part in the products, and 0 times NaN is NaN. Not
    `torch.zeros`, which writes, and so commits, all of it.
    """
    if layout.device.type != "cpu":
        return torch.zeros(shape, dtype=layout.dtype, device=layout.device)
    raw = np.zeros(math.prod(shape) * layout.dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(layout.dtype).view(shape)


class CrossAttentionCache:
    """Keys and values of the sources; written at admission, then read-only.

    Args:
        layout: Shape of one entry.
        num_slots: Slots in the group.
        source_capacity: Longest source that a slot can hold.
    """

    def __init__(self, layout: CacheLayout, num_slots: int, source_capacity: int) -> None:
        self._layout = layout
        self._entries = KeyValues.allocate(layout, num_slots, source_capacity)
        self._bias = torch.full(
            (num_slots, source_capacity), -torch.inf, dtype=layout.dtype, device=layout.device
        )
        self._source_lens = [0] * num_slots

    def write(self, slot: int, keys: Tensor, values: Tensor) -> None:
        """Store one source: keys and values, each [num_layers, num_heads, source_len, head_dim]."""
        source_len = keys.shape[2]
        self._entries.keys[:, slot, :, :source_len] = keys
        self._entries.values[:, slot, :, :source_len] = values
        self._bias[slot] = -torch.inf
        self._bias[slot, :source_len] = 0
        self._source_lens[slot] = source_len

    def erase(self, slot: int) -> None:
        """Leave nothing of a slot."""
        self._entries.erase(slot)

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another."""
        self._entries.move(source, destination, self._source_lens[source])
        self._bias[destination] = self._bias[source]
        self._source_lens[destination] = self._source_lens[source]

    def resize(self, num_slots: int, *, num_used: int) -> None:
        """Change the number of slots; the first `num_used` stay as they are."""
        longest = max(self._source_lens[:num_used], default=0)
        self._entries = self._entries.resized(
            self._layout, num_slots, num_used=num_used, length=longest
        )
        bias = self._bias.new_full((num_slots, self._bias.shape[1]), -torch.inf)
        bias[:num_used] = self._bias[:num_used]
        self._bias = bias
        self._source_lens = self._source_lens[:num_used] + [0] * (num_slots - num_used)

    def view(self, num_slots: int) -> tuple[KeyValues, Tensor]:
        """The first `num_slots` slots, up to their longest source.

        Returns:
            Keys and values, and the additive mask `[num_slots, 1, 1, source_len]`.
        """
        source_len = max(self._source_lens[:num_slots])
        entries = KeyValues(
            self._entries.keys[:, :num_slots, :, :source_len],
            self._entries.values[:, :num_slots, :, :source_len],
        )
        return entries, self._bias[:num_slots, None, None, :source_len]


@dataclass(frozen=True, slots=True)
class _Write:
    """Where one step writes into one block: rows of the group, and entries of their slots."""

    block: KeyValues
    slots: Tensor
    """[rows_slots, 1]"""
    entries: Tensor
    """[rows_slots, num_beams]"""


@dataclass(frozen=True, slots=True)
class SelfAttentionStep:
    """One step's view of a group's self-attention cache, the same for all layers.

    Attributes:
        blocks: Keys and values, each `[num_layers, num_slots, num_heads, entries, head_dim]`.
    """

    blocks: tuple[KeyValues, ...]
    _biases: tuple[tuple[Tensor, ...], ...]
    """Per block, for all layers alike or for each layer its own."""
    _writes: tuple[_Write, ...]

    def biases(self, layer: int) -> tuple[Tensor, ...]:
        """Per block, additive mask (and position bias) of a layer.

        Broadcastable to `[num_slots, num_heads, num_beams, entries]`.
        """
        return tuple(of_layers[layer % len(of_layers)] for of_layers in self._biases)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store this step's keys and values, each `[num_slots, num_beams, num_heads, head_dim]`."""
        for write in self._writes:
            rows = write.slots[:, 0]
            write.block.keys[layer][write.slots, :, write.entries] = keys[rows]
            write.block.values[layer][write.slots, :, write.entries] = values[rows]


class SelfAttentionCache:
    """Keys and values of the targets of one group, and the ancestry of its hypotheses.

    Time-major: position `t` of beam row `b` is entry `t * num_beams + b`, written once. Choosing
    parents changes `ancestry` only: `ancestry[slot, b, t]` is the row that wrote position `t` of
    the hypothesis which now is row `b`; -1 where nothing is written. It grows by blocks of
    `BLOCK_LEN` positions; what is there is never copied.

    Args:
        layout: Shape of one entry.
        num_slots: Slots in the group.
        num_beams: Hypotheses per slot.
    """

    def __init__(self, layout: CacheLayout, num_slots: int, num_beams: int) -> None:
        self._layout = layout
        self._num_slots = num_slots
        self._num_beams = num_beams
        self._blocks: list[KeyValues] = []
        self._ancestry = torch.empty((num_slots, num_beams, 0), dtype=torch.long)
        self._ancestry = self._ancestry.to(layout.device)

    def clear(self, slot: int) -> None:
        """Make a slot ready for a new request."""
        self._ancestry[slot] = -1

    def erase(self, slot: int) -> None:
        """Leave nothing of a slot."""
        for block in self._blocks:
            block.erase(slot)

    def move(self, source: int, destination: int, target_len: int) -> None:
        """Copy the first `target_len` positions of one slot over another."""
        self._ancestry[destination] = self._ancestry[source]
        for index, block in enumerate(self._blocks):
            positions = min(target_len - index * BLOCK_LEN, BLOCK_LEN)
            if positions > 0:
                block.move(source, destination, positions * self._num_beams)

    def resize(self, num_slots: int, *, num_used: int, target_len: int) -> None:
        """Change the number of slots; the first `num_used` keep `target_len` positions."""
        num_blocks = math.ceil(target_len / BLOCK_LEN)
        self._blocks = [
            block.resized(
                self._layout,
                num_slots,
                num_used=num_used,
                length=min(target_len - index * BLOCK_LEN, BLOCK_LEN) * self._num_beams,
            )
            for index, block in enumerate(self._blocks[:num_blocks])
        ]
        shape = (num_slots, self._num_beams, len(self._blocks) * BLOCK_LEN)
        ancestry = self._ancestry.new_full(shape, -1)
        ancestry[:num_used] = self._ancestry[:num_used, :, : shape[2]]
        self._ancestry = ancestry
        self._num_slots = num_slots

    def choose_parents(self, parents: Tensor) -> None:
        """Let row `b` of slot `s` continue row `parents[s, b]`; [num_slots, num_beams]."""
        num_slots = parents.shape[0]
        lineage = self._ancestry[:num_slots]
        index = parents[:, :, None].expand(-1, -1, lineage.shape[2])
        self._ancestry[:num_slots] = lineage.gather(1, index)

    def step(
        self, positions: Tensor, position_biases: Sequence["PositionBias"]
    ) -> SelfAttentionStep:
        """Prepare a step in which slot `s` writes position `positions[s]`.

        Args:
            positions: [num_slots], on the CPU.
            position_biases: Relative-position biases of the decoder; see `Decoder`.
        """
        num_slots = positions.shape[0]
        target_len = int(positions.max()) + 1
        self._grow(target_len)
        device = self._layout.device
        slots = torch.arange(num_slots)
        beams = torch.arange(self._num_beams, device=device)
        on_device = positions.to(device)
        self._ancestry[slots.to(device), :, on_device] = beams

        blocks, biases, writes = [], [], []
        for index, block in enumerate(self._blocks):
            start = index * BLOCK_LEN
            end = min(start + BLOCK_LEN, target_len)
            if end <= start:
                break
            num_entries = (end - start) * self._num_beams
            blocks.append(
                KeyValues(
                    block.keys[:, :num_slots, :, :num_entries],
                    block.values[:, :num_slots, :, :num_entries],
                )
            )
            biases.append(self._layer_biases(start, end, on_device, position_biases))
            inside = slots[(positions >= start) & (positions < end)].to(device)
            if len(inside):
                first = (on_device[inside] - start) * self._num_beams
                writes.append(_Write(block, inside[:, None], first[:, None] + beams))
        return SelfAttentionStep(tuple(blocks), tuple(biases), tuple(writes))

    def _layer_biases(
        self, start: int, end: int, positions: Tensor, position_biases: Sequence["PositionBias"]
    ) -> tuple[Tensor, ...]:
        """Additive masks of the entries of positions `start` to `end`: one, or one per layer."""
        num_slots = positions.shape[0]
        writers = torch.arange(self._num_beams, device=positions.device)
        visible = self._ancestry[:num_slots, :, start:end, None] == writers
        visible = visible.view(num_slots, 1, self._num_beams, -1)
        bias = torch.zeros(visible.shape, dtype=self._layout.dtype, device=positions.device)
        bias.masked_fill_(~visible, -torch.inf)
        if not position_biases:
            return (bias,)
        return tuple(
            bias
            + relative(positions, start, end).repeat_interleave(self._num_beams, dim=-1)[:, :, None]
            for relative in position_biases
        )

    def _grow(self, target_len: int) -> None:
        while len(self._blocks) * BLOCK_LEN < target_len:
            num_entries = BLOCK_LEN * self._num_beams
            self._blocks.append(KeyValues.allocate(self._layout, self._num_slots, num_entries))
            unwritten = self._ancestry.new_full((self._num_slots, self._num_beams, BLOCK_LEN), -1)
            self._ancestry = torch.cat((self._ancestry, unwritten), dim=2)


class PositionBias:
    """Relative-position bias of T5 by distance, for one query per slot.

    Args:
        by_distance: [num_heads, num_distances]; farther distances share the last one.
    """

    def __init__(self, by_distance: Tensor) -> None:
        self._by_distance = by_distance.contiguous()

    def __call__(self, positions: Tensor, start: int, end: int) -> Tensor:
        """Bias of keys `start` to `end` for queries at `positions`: [num_slots, heads, keys]."""
        keys = torch.arange(start, end, device=positions.device)
        distance = (positions[:, None] - keys).clamp(0, self._by_distance.shape[1] - 1)
        return self._by_distance[:, distance].transpose(0, 1)
