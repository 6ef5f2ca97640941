"""Attention of all slots of a pool, as one step of the decoder sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from model_core.cache import PositionBias
from model_core.cuda import reference
from model_core.cuda.pages import PageArena, PagedEntries
from model_core.cuda.slots import SlotTable


class PagedAttention(Protocol):
    """What attends over pages: see `model_core.cuda.kernel`, whose arguments these are."""

    def write(self, key: Tensor, value: Tensor, entries: PagedEntries) -> None:
        """Store this step's keys and values."""

    def attend(
        self,
        query: Tensor,
        entries: PagedEntries,
        ancestry: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attention of every row over its slot's entries."""


class PlainAttention:
    """By plain torch, on a CPU."""

    write = staticmethod(reference.write)
    attend = staticmethod(reference.attend)


class FusedAttention:
    """By the Triton kernel.

    Args:
        num_processors: Multiprocessors of the device, to be kept busy.
    """

    def __init__(self, num_processors: int) -> None:
        # Triton comes with torch's CUDA build; a CPU build has none.
        from model_core.cuda import kernel

        self._kernel = kernel
        self._num_processors = num_processors
        self.write = kernel.write

    def attend(
        self,
        query: Tensor,
        entries: PagedEntries,
        ancestry: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """See `PagedAttention`."""
        num_programs = entries.lengths.shape[0] * query.shape[1]
        num_splits = self._kernel.num_splits_for(num_programs, self._num_processors)
        return self._kernel.attend(query, entries, ancestry, bias, num_splits=num_splits)


def attention_on(device: torch.device) -> PagedAttention:
    """The fastest way to attend on a device."""
    if device.type != "cuda":
        return PlainAttention()
    return FusedAttention(torch.cuda.get_device_properties(device).multi_processor_count)


@dataclass(frozen=True, slots=True)
class SlotContext:
    """The first `num_slots` slots of a table; see `AttentionContext`."""

    arena: PageArena
    table: SlotTable
    num_slots: int
    num_beams: int
    attention: PagedAttention
    position_biases: Sequence[PositionBias] = ()

    @property
    def num_rows(self) -> int:
        """See `AttentionContext`."""
        return self.num_slots * self.num_beams

    def self_attention(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `AttentionContext`."""
        table = self.table
        entries = self._entries(layer, table.target_pages, table.lengths)
        self.attention.write(key, value, entries)
        bias = None
        if self.position_biases:
            bias = self.position_biases[layer % len(self.position_biases)].by_distance
        ancestry = table.ancestry[: self.num_slots]
        return self.attention.attend(query, entries, ancestry, bias)

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        """See `AttentionContext`."""
        table = self.table
        entries = self._entries(layer, table.source_pages, table.source_lens)
        return self.attention.attend(query, entries)

    def _entries(self, layer: int, pages: Tensor, lengths: Tensor) -> PagedEntries:
        keys, values = self.arena.keys[layer], self.arena.values[layer]
        return PagedEntries(keys, values, pages[: self.num_slots], lengths[: self.num_slots])
