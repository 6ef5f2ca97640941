"""What `model_core.cuda.kernel` computes, in plain torch: the path of a CPU, and its judge."""

import torch
from torch import Tensor

from model_core.cuda.pages import PAGE_LEN, PagedEntries, num_pages_for


def write(key: Tensor, value: Tensor, entries: PagedEntries) -> None:
    """See `kernel.write`."""
    lengths = entries.lengths
    num_beams = key.shape[0] // lengths.shape[0]
    slots = lengths.nonzero()[:, 0]
    beams = torch.arange(num_beams, device=lengths.device)
    written = (lengths[slots, None] - 1) * num_beams + beams
    page_ids = entries.pages[slots[:, None], written // PAGE_LEN].long()
    places = written % PAGE_LEN
    for cache, new in ((entries.keys, key), (entries.values, value)):
        cache[page_ids, :, places.long()] = new.view(-1, num_beams, *new.shape[1:])[slots]


def attend(
    query: Tensor,
    entries: PagedEntries,
    ancestry: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """See `kernel.attend`; sums in float32, or in float64 where that is the query's dtype."""
    lengths = entries.lengths
    num_slots = lengths.shape[0]
    num_beams = query.shape[0] // num_slots
    per_position = 1 if ancestry is None else num_beams
    num_entries = lengths * per_position
    longest = max(1, num_pages_for(int(num_entries.max())))
    numbers = torch.arange(longest * PAGE_LEN, device=query.device)
    is_visible = (numbers < num_entries[:, None])[:, None].expand(-1, num_beams, -1)
    positions = numbers // per_position
    if ancestry is not None:
        writers = ancestry[:, :, positions.clamp(max=ancestry.shape[2] - 1)]
        is_visible = is_visible & (writers == numbers % num_beams)

    dtype = torch.promote_types(query.dtype, torch.float32)
    rows = query.view(num_slots, num_beams, *query.shape[1:]).to(dtype)
    products = torch.einsum(
        "sbhd,shed->shbe", rows, _entries(entries.keys, entries.pages, longest).to(dtype)
    )
    if bias is not None:
        distance = (lengths[:, None] - 1 - positions).clamp(0, bias.shape[1] - 1).long()
        products += bias[:, distance].transpose(0, 1)[:, :, None]
    products = products.masked_fill(~is_visible[:, None], -torch.inf)
    weights = torch.softmax(products, -1).masked_fill(~is_visible[:, None], 0)
    # What lies behind the last entry may be anything: 0 times NaN is NaN.
    written = (numbers < num_entries[:, None])[:, None, :, None]
    attended = _entries(entries.values, entries.pages, longest).to(dtype).masked_fill(~written, 0)
    context = torch.einsum("shbe,shed->sbhd", weights, attended)
    return context.flatten(2).flatten(0, 1).to(query.dtype)


def _entries(cache: Tensor, pages: Tensor, num_pages: int) -> Tensor:
    """Entries of each slot, [num_slots, num_heads, num_pages * PAGE_LEN, head_dim]."""
    missing = num_pages - pages.shape[1]
    assert missing <= 0
    return cache[pages[:, :num_pages].long()].transpose(1, 2).flatten(2, 3)
