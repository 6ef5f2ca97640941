"""Keys and values in pages of one size: what requests of any width and length take turns in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_core.key_values import CacheLayout

PAGE_LEN = 64
"""Entries of a page."""


def num_pages_for(num_entries: int) -> int:
    """Pages that hold so many entries."""
    return math.ceil(num_entries / PAGE_LEN)


@dataclass(frozen=True, slots=True)
class SlotPages:
    """The pages of one request, in the order of its entries.

    Attributes:
        source: Of its cross-attention keys and values, an entry per source token.
        target: Of its self-attention keys and values: position `t` of beam row `b` is entry
            `t * num_beams + b`.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PagedEntries:
    """What the slots of a step attend to in one layer.

    Attributes:
        keys: [num_pages, num_heads, PAGE_LEN, head_dim].
        values: The same.
        pages: [num_slots, max_pages], int32: the pages of each slot, in order.
        lengths: [num_slots], int32: positions of each slot, 0 where it is empty.
    """

    keys: Tensor
    values: Tensor
    pages: Tensor
    lengths: Tensor


class PageArena:
    """All pages of a checkpoint, allocated once: captured graphs know their addresses.

    Args:
        layout: Shape of one entry.
        num_pages: How many pages.

    Attributes:
        keys: [num_layers, num_pages, num_heads, PAGE_LEN, head_dim].
        values: The same.
        num_bytes: Of both.
    """

    def __init__(self, layout: CacheLayout, num_pages: int) -> None:
        shape = (layout.num_layers, num_pages, layout.num_heads, PAGE_LEN, layout.head_dim)
        self.keys = torch.zeros(shape, dtype=layout.dtype, device=layout.device)
        self.values = torch.zeros(shape, dtype=layout.dtype, device=layout.device)
        self.num_bytes = num_pages * page_bytes(layout)
        self._num_pages = num_pages
        self.free_all()

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def allocate(self, num_source_entries: int, num_target_entries: int) -> SlotPages:
        """Pages for one request, until `free`.

        Raises:
            RuntimeError: There are too few; admission reserves them before.
        """
        num_source = num_pages_for(num_source_entries)
        num_pages = num_source + num_pages_for(num_target_entries)
        if num_pages > len(self._free):
            raise RuntimeError(f"{num_pages} pages are wanted, {len(self._free)} are free")
        taken = [self._free.pop() for _ in range(num_pages)]
        return SlotPages(tuple(taken[:num_source]), tuple(taken[num_source:]))

    def free(self, pages: SlotPages) -> None:
        """Take back the pages of a request."""
        self._free += (*pages.source, *pages.target)

    def free_all(self) -> None:
        """Take back every page."""
        self._free = list(range(self._num_pages))

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store the keys and values of source tokens in one layer.

        Args:
            layer: The layer.
            places: Page of each token and its place in the page, [2, num_tokens].
            keys: [num_tokens, num_heads, head_dim].
            values: The same.
        """
        page_ids, entries = places.unbind()
        self.keys[layer, page_ids, :, entries] = keys
        self.values[layer, page_ids, :, entries] = values


def page_bytes(layout: CacheLayout) -> int:
    """Bytes of one page in all layers."""
    return PAGE_LEN * layout.bytes_per_token


def places_of(pages: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
    """Page of each entry and its place in the page, owner after owner: [2, num_entries].

    Args:
        pages: Of each owner, in the order of its entries.
        lengths: Entries of each.
    """
    of_owner = torch.tensor(lengths)
    first_entries = (of_owner.cumsum(0) - of_owner).repeat_interleave(of_owner)
    entries = torch.arange(len(first_entries)) - first_entries
    num_pages = torch.tensor([len(own) for own in pages])
    first_pages = (num_pages.cumsum(0) - num_pages).repeat_interleave(of_owner)
    all_pages = torch.tensor([page for own in pages for page in own])
    return torch.stack((all_pages[first_pages + entries // PAGE_LEN], entries % PAGE_LEN))
