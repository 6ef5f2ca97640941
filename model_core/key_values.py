"""Memory for keys and values: allocated on demand, committed on first use, used again."""

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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

    @property
    def nbytes(self) -> int:
        """Of both together."""
        return self.keys.nbytes + self.values.nbytes

    def narrow(self, num_slots: int, first: int, last: int) -> "KeyValues":
        """A view of entries `first` to `last` of the first slots."""
        return KeyValues(
            self.keys[:, :num_slots, :, first:last], self.values[:, :num_slots, :, first:last]
        )

    def erase(self, slot: int, first: int, last: int) -> None:
        """Zero entries: masked ones take part in products, and 0 times NaN is NaN."""
        self.keys[:, slot, :, first:last] = 0
        self.values[:, slot, :, first:last] = 0

    def move(self, source: int, destination: int, first: int, last: int) -> None:
        """Copy entries `first` to `last` of one slot over those of another."""
        for tensor in (self.keys, self.values):
            tensor[:, destination, :, first:last] = tensor[:, source, :, first:last]


class KeyValuesPool:
    """Hands out keys and values, and takes them back to hand them out again.

    The first write to fresh memory costs the system many times the write itself, so what is given
    back is kept for the next taker. What it holds, in use and free, is never more than was once in
    use at the same time.

    What is handed out holds finite numbers, but not zeros: whoever gives back memory in which
    something else was written erases that first.

    Args:
        layout: Of all that it hands out.
    """

    def __init__(self, layout: CacheLayout) -> None:
        self.layout = layout
        self._used_bytes = 0
        self._free_bytes = 0
        self._most_used_bytes = 0
        # By shape: those given back last are the first to be taken again.
        self._free: OrderedDict[tuple[int, int], list[KeyValues]] = OrderedDict()

    def take(self, num_slots: int, length: int) -> KeyValues:
        """Room for `num_slots` times `length` entries."""
        shape = (num_slots, length)
        entries = self._pop(shape) if shape in self._free else None
        if entries is None:
            entries = KeyValues.allocate(self.layout, num_slots, length)
        self._used_bytes += entries.nbytes
        self._most_used_bytes = max(self._most_used_bytes, self._used_bytes)
        while self._used_bytes + self._free_bytes > self._most_used_bytes:
            self._pop(next(iter(self._free)))
        return entries

    def give_back(self, entries: KeyValues) -> None:
        """Take back what nobody reads any more."""
        shape = (entries.keys.shape[1], entries.keys.shape[3])
        self._used_bytes -= entries.nbytes
        self._free_bytes += entries.nbytes
        self._free.setdefault(shape, []).append(entries)
        self._free.move_to_end(shape)

    def resized(
        self, old: KeyValues, num_slots: int, *, num_used: int, first: int, last: int
    ) -> KeyValues:
        """The same for another number of slots, in place of `old`.

        Entries `first` to `last` of the first `num_used` slots are copied.
        """
        new = self.take(num_slots, old.keys.shape[3])
        for tensor, before in ((new.keys, old.keys), (new.values, old.values)):
            tensor[:, :num_used, :, first:last] = before[:, :num_used, :, first:last]
        self.give_back(old)
        return new

    def _pop(self, shape: tuple[int, int]) -> KeyValues:
        entries = self._free[shape].pop()
        if not self._free[shape]:
            del self._free[shape]
        self._free_bytes -= entries.nbytes
        return entries


def _lazy_zeros(shape: tuple[int, ...], layout: CacheLayout) -> Tensor:
    """Zeros, whose memory a CPU commits page by page on first use.

    Not uninitialised: masked entries take part in the products, and 0 times NaN is NaN. Not
    `torch.zeros`, which writes, and so commits, all of it.
    """
    if layout.device.type != "cpu":
        return torch.zeros(shape, dtype=layout.dtype, device=layout.device)
    raw = np.zeros(math.prod(shape) * layout.dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(layout.dtype).view(shape)
