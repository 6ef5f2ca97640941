"""Memory for keys and values: allocated on demand, committed on first use, used again."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True, eq=False)
class KeyValues:
    """Keys and values, each `[num_layers, num_slots, num_heads, length, head_dim]`."""

    keys: Tensor
    values: Tensor

    @cached_property
    def by_layer(self) -> Sequence[tuple[Tensor, Tensor]]:
        """Views of keys and values of each layer, `[num_slots, num_heads, length, head_dim]`."""
        return list(zip(self.keys.unbind(), self.values.unbind(), strict=True))

    @cached_property
    def heads_by_layer(self) -> Sequence[tuple[Tensor, Tensor]]:
        """The same, `[num_slots * num_heads, length, head_dim]`."""
        num_layers, num_slots, num_heads, length, head_dim = self.keys.shape
        shape = (num_layers, num_slots * num_heads, length, head_dim)
        keys, values = self.keys.view(shape), self.values.view(shape)
        return list(zip(keys.unbind(), values.unbind(), strict=True))

    @classmethod
    def allocate(cls, layout: CacheLayout, num_slots: int, length: int) -> "KeyValues":
        """Room for `num_slots` times `length` entries."""
        shape = (layout.num_layers, num_slots, layout.num_heads, length, layout.head_dim)
        return cls(_lazy_zeros(shape, layout), _lazy_zeros(shape, layout))

    @property
    def num_entries(self) -> int:
        """Of all slots."""
        return self.keys.shape[1] * self.keys.shape[3]

    def reshaped(self, num_slots: int, length: int) -> "KeyValues":
        """The same memory for as many entries, otherwise distributed."""
        num_layers, _, num_heads, _, head_dim = self.keys.shape
        shape = (num_layers, num_slots, num_heads, length, head_dim)
        return KeyValues(self.keys.view(shape), self.values.view(shape))

    def narrow(self, num_slots: int, first: int, last: int) -> "KeyValues":
        """A view of entries `first` to `last` of the first slots."""
        return KeyValues(
            self.keys[:, :num_slots, :, first:last], self.values[:, :num_slots, :, first:last]
        )

    def erase(self, slot: int, length: int) -> None:
        """Zero the first entries: masked ones take part in products, and 0 times NaN is NaN."""
        self.keys[:, slot, :, :length] = 0
        self.values[:, slot, :, :length] = 0

    def move(self, source: int, destination: int, length: int) -> None:
        """Copy the first entries of one slot over those of another."""
        for tensor in (self.keys, self.values):
            tensor[:, destination, :, :length] = tensor[:, source, :, :length]

    def move_entries(self, slots: Tensor, sources: Tensor, destinations: Tensor) -> None:
        """Copy entries over others of the same slots; all [num_entries]."""
        num_layers, num_slots, num_heads, length, head_dim = self.keys.shape
        layers = torch.arange(num_layers, device=slots.device)[:, None, None]
        heads = torch.arange(num_heads, device=slots.device)
        firsts = ((layers * num_slots + slots[:, None]) * num_heads + heads) * length
        read, written = (
            (firsts + positions[:, None]).flatten() for positions in (sources, destinations)
        )
        for tensor in (self.keys, self.values):
            rows = tensor.view(-1, head_dim)
            rows.index_copy_(0, written, rows.index_select(0, read))


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
        self._num_used = 0
        self._num_free = 0
        self._most_used = 0
        # By the number of entries: those given back last are the first to be taken again.
        self._free: OrderedDict[int, list[KeyValues]] = OrderedDict()

    @property
    def num_entries(self) -> int:
        """What it holds, in use and free."""
        return self._num_used + self._num_free

    def take(self, num_slots: int, length: int) -> KeyValues:
        """Room for `num_slots` times `length` entries."""
        num_entries = num_slots * length
        if num_entries in self._free:
            entries = self._pop(num_entries).reshaped(num_slots, length)
        else:
            entries = KeyValues.allocate(self.layout, num_slots, length)
        self._num_used += num_entries
        self._most_used = max(self._most_used, self._num_used)
        while self.num_entries > self._most_used:
            self._pop(next(iter(self._free)))
        return entries

    def give_back(self, entries: KeyValues) -> None:
        """Take back what nobody reads any more."""
        self._num_used -= entries.num_entries
        self._num_free += entries.num_entries
        self._free.setdefault(entries.num_entries, []).append(entries)
        self._free.move_to_end(entries.num_entries)

    def resized(
        self, old: KeyValues, num_slots: int, length: int, *, num_used: int, used_len: int
    ) -> KeyValues:
        """The same for another number of slots, or of entries in each, in place of `old`.

        The first `used_len` entries of the first `num_used` slots are copied.
        """
        new = self.take(num_slots, length)
        for tensor, before in ((new.keys, old.keys), (new.values, old.values)):
            tensor[:, :num_used, :, :used_len] = before[:, :num_used, :, :used_len]
        self.give_back(old)
        return new

    def _pop(self, num_entries: int) -> KeyValues:
        entries = self._free[num_entries].pop()
        if not self._free[num_entries]:
            del self._free[num_entries]
        self._num_free -= num_entries
        return entries


def _lazy_zeros(shape: tuple[int, ...], layout: CacheLayout) -> Tensor:
    """Zeros, whose memory a CPU commits page by page on first use, where it is new to the process.

    Not uninitialised: masked entries take part in the products, and 0 times NaN is NaN. Not
    `torch.zeros`, which writes, and so commits, all of it.
    """
    if layout.device.type != "cpu":
        return torch.zeros(shape, dtype=layout.dtype, device=layout.device)
    raw = np.zeros(math.prod(shape) * layout.dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(layout.dtype).view(shape)
