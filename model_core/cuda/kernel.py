"""Attention of one decoder step over pages, in Triton: every key is read once for all beams.

Runs under Triton's interpreter on a CPU (`TRITON_INTERPRET=1` before this is imported).
`model_core.cuda.reference` says the same in plain torch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_core.cuda.pages import PAGE_LEN, PagedEntries

_FEWEST_DOT_ROWS = 16
"""Tensor cores take no fewer rows; for a single one they are still faster than to do without."""
_MOST_SPLITS = 8
_LAUNCH = {"num_warps": 2, "num_stages": 2, "enable_fp_fusion": True}
"""Of the options the fastest on an H200, with one beam and with four, over sources and targets."""


@triton.jit  # type: ignore[untyped-decorator]
def _write_kernel(  # type: ignore[no-untyped-def]
    key_ptr,
    value_ptr,
    keys_ptr,
    values_ptr,
    pages_ptr,
    lengths_ptr,
    row_stride,
    head_stride,
    pages_stride,
    lengths_stride,
    NUM_BEAMS: tl.constexpr,  # noqa: N803
    NUM_HEADS: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    PAGE: tl.constexpr,  # noqa: N803
    PADDED_HEADS: tl.constexpr,  # noqa: N803
    PADDED_DIM: tl.constexpr,  # noqa: N803
):
    """One row's key and value, [num_heads, head_dim], to its entry of the slot's pages."""
    row = tl.program_id(0)
    slot, beam = row // NUM_BEAMS, row % NUM_BEAMS
    length = tl.load(lengths_ptr + slot * lengths_stride)
    if length > 0:
        entry = (length - 1) * NUM_BEAMS + beam
        page = tl.load(pages_ptr + slot * pages_stride + entry // PAGE).to(tl.int64)
        heads = tl.arange(0, PADDED_HEADS)[:, None]
        dims = tl.arange(0, PADDED_DIM)[None, :]
        mask = (heads < NUM_HEADS) & (dims < HEAD_DIM)
        source = row.to(tl.int64) * row_stride + heads * head_stride + dims
        target = ((page * NUM_HEADS + heads) * PAGE + entry % PAGE) * HEAD_DIM + dims
        tl.store(keys_ptr + target, tl.load(key_ptr + source, mask=mask), mask=mask)
        tl.store(values_ptr + target, tl.load(value_ptr + source, mask=mask), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _attend_kernel(  # type: ignore[no-untyped-def]
    query_ptr,
    keys_ptr,
    values_ptr,
    pages_ptr,
    lengths_ptr,
    ancestry_ptr,
    bias_ptr,
    context_ptr,
    partial_ptr,
    query_row_stride,
    query_head_stride,
    pages_stride,
    lengths_stride,
    ancestry_slot_stride,
    ancestry_beam_stride,
    num_distances,
    NUM_BEAMS: tl.constexpr,  # noqa: N803
    NUM_HEADS: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    PAGE: tl.constexpr,  # noqa: N803
    PADDED_BEAMS: tl.constexpr,  # noqa: N803
    PADDED_DIM: tl.constexpr,  # noqa: N803
    NUM_SPLITS: tl.constexpr,  # noqa: N803
    HAS_ANCESTRY: tl.constexpr,  # noqa: N803
    HAS_BIAS: tl.constexpr,  # noqa: N803
):
    """One head of one slot over every `NUM_SPLITS`-th of its pages."""
    slot, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_ptr + slot * lengths_stride)
    num_entries = length
    if HAS_ANCESTRY:
        num_entries = length * NUM_BEAMS

    beams = tl.arange(0, PADDED_BEAMS)
    dims = tl.arange(0, PADDED_DIM)
    places = tl.arange(0, PAGE)
    rows = (slot * NUM_BEAMS + beams).to(tl.int64)
    row_mask = (beams[:, None] < NUM_BEAMS) & (dims[None, :] < HEAD_DIM)
    query_at = rows[:, None] * query_row_stride + head * query_head_stride + dims[None, :]
    query = tl.load(query_ptr + query_at, mask=row_mask, other=0.0)

    best = tl.full((PADDED_BEAMS,), float("-inf"), tl.float32)
    total = tl.zeros((PADDED_BEAMS,), tl.float32)
    context = tl.zeros((PADDED_BEAMS, PADDED_DIM), tl.float32)
    for index in range(split, tl.cdiv(num_entries, PAGE), NUM_SPLITS):
        page = tl.load(pages_ptr + slot * pages_stride + index).to(tl.int64)
        entries = index * PAGE + places
        is_written = entries < num_entries
        # What lies behind the last entry may be anything: 0 times NaN is NaN.
        entry_mask = is_written[:, None] & (dims[None, :] < HEAD_DIM)
        entry_at = ((page * NUM_HEADS + head) * PAGE + places[:, None]) * HEAD_DIM + dims[None, :]
        keys = tl.load(keys_ptr + entry_at, mask=entry_mask, other=0.0)
        values = tl.load(values_ptr + entry_at, mask=entry_mask, other=0.0)

        products = tl.dot(query, tl.trans(keys), input_precision="ieee")
        is_visible = is_written[None, :] & (beams[:, None] < NUM_BEAMS)
        if HAS_ANCESTRY:
            positions = entries // NUM_BEAMS
            if NUM_BEAMS > 1:
                ancestry_at = slot * ancestry_slot_stride + beams[:, None] * ancestry_beam_stride
                writers = tl.load(
                    ancestry_ptr + ancestry_at + positions[None, :], mask=is_visible, other=-1
                )
                is_visible = is_visible & (writers == (entries % NUM_BEAMS)[None, :])
            if HAS_BIAS:
                distances = tl.minimum(tl.maximum(length - 1 - positions, 0), num_distances - 1)
                bias = tl.load(bias_ptr + head * num_distances + distances)
                products += bias.to(tl.float32)[None, :]
        products = tl.where(is_visible, products, float("-inf"))

        new_best = tl.maximum(best, tl.max(products, 1))
        # A row that has seen nothing yet: any finite number will do.
        offset = tl.where(new_best == float("-inf"), 0.0, new_best)
        weights = tl.exp(products - offset[:, None])
        shrink = tl.exp(best - offset)
        total = total * shrink + tl.sum(weights, 1)
        attended = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        context = context * shrink[:, None] + attended
        best = new_best

    if NUM_SPLITS == 1:
        context = context / tl.where(total == 0.0, 1.0, total)[:, None]
        context_at = (rows[:, None] * NUM_HEADS + head) * HEAD_DIM + dims[None, :]
        tl.store(context_ptr + context_at, context.to(context_ptr.dtype.element_ty), mask=row_mask)
    else:
        # Per row, head and split: the context, then the best and the total.
        part = ((rows * NUM_HEADS + head) * NUM_SPLITS + split) * (HEAD_DIM + 2)
        tl.store(partial_ptr + part[:, None] + dims[None, :], context, mask=row_mask)
        tl.store(partial_ptr + part + HEAD_DIM, best, mask=beams < NUM_BEAMS)
        tl.store(partial_ptr + part + HEAD_DIM + 1, total, mask=beams < NUM_BEAMS)


@triton.jit  # type: ignore[untyped-decorator]
def _combine_kernel(  # type: ignore[no-untyped-def]
    partial_ptr,
    context_ptr,
    HEAD_DIM: tl.constexpr,  # noqa: N803
    PADDED_DIM: tl.constexpr,  # noqa: N803
    NUM_SPLITS: tl.constexpr,  # noqa: N803
):
    """One head of one row: what all splits found together."""
    place = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, PADDED_DIM)
    parts = (place * NUM_SPLITS + tl.arange(0, NUM_SPLITS)) * (HEAD_DIM + 2)
    bests = tl.load(partial_ptr + parts + HEAD_DIM)
    totals = tl.load(partial_ptr + parts + HEAD_DIM + 1)
    mask = dims < HEAD_DIM
    contexts = tl.load(partial_ptr + parts[:, None] + dims[None, :], mask=mask[None, :], other=0.0)
    best = tl.max(bests, 0)
    shrink = tl.exp(bests - tl.where(best == float("-inf"), 0.0, best))
    total = tl.sum(totals * shrink, 0)
    context = tl.sum(contexts * shrink[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    context_at = place * HEAD_DIM + dims
    tl.store(context_ptr + context_at, context.to(context_ptr.dtype.element_ty), mask=mask)


def write(key: Tensor, value: Tensor, entries: PagedEntries) -> None:
    """Store this step's keys and values at the last position of each target.

    Args:
        key: [num_slots * num_beams, num_heads, head_dim].
        value: The same, with the same strides.
        entries: Of the targets, one for each position and beam; changed in place.
    """
    num_rows, num_heads, head_dim = key.shape
    assert key.stride() == value.stride()
    _write_kernel[(num_rows,)](
        key,
        value,
        entries.keys,
        entries.values,
        entries.pages,
        entries.lengths,
        key.stride(0),
        key.stride(1),
        entries.pages.stride(0),
        entries.lengths.stride(0),
        NUM_BEAMS=num_rows // entries.lengths.shape[0],
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        PAGE=PAGE_LEN,
        PADDED_HEADS=triton.next_power_of_2(num_heads),
        PADDED_DIM=triton.next_power_of_2(head_dim),
        enable_fp_fusion=True,
    )


def attend(
    query: Tensor,
    entries: PagedEntries,
    ancestry: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_splits: int = 1,
) -> Tensor:
    """Attention of every row over its slot's entries.

    Args:
        query: [num_slots * num_beams, num_heads, head_dim], scaled already.
        entries: Of the slots.
        ancestry: [num_slots, num_beams, max_target_len], int16: there is an entry for each position
            and beam, and a row sees what its ancestors wrote. None: an entry for each position,
            for all rows.
        bias: [num_heads, num_distances], by distance from the last position; with `ancestry`.
        num_splits: Programs that share a slot's head; a power of two.

    Returns:
        Context, [num_slots * num_beams, num_heads * head_dim]; zeros where a slot is empty.
    """
    num_rows, num_heads, head_dim = query.shape
    pages, lengths = entries.pages, entries.lengths
    num_slots = lengths.shape[0]
    num_beams = num_rows // num_slots
    context = query.new_empty((num_rows, num_heads * head_dim))
    partial = context
    if num_splits > 1:
        shape = (num_rows, num_heads, num_splits, head_dim + 2)
        partial = torch.empty(shape, dtype=torch.float32, device=query.device)
    _attend_kernel[(num_slots, num_heads, num_splits)](
        query,
        entries.keys,
        entries.values,
        pages,
        lengths,
        lengths if ancestry is None else ancestry,
        lengths if bias is None else bias,
        context,
        partial,
        query.stride(0),
        query.stride(1),
        pages.stride(0),
        lengths.stride(0),
        0 if ancestry is None else ancestry.stride(0),
        0 if ancestry is None else ancestry.stride(1),
        0 if bias is None else bias.shape[1],
        NUM_BEAMS=num_beams,
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        PAGE=PAGE_LEN,
        PADDED_BEAMS=max(_FEWEST_DOT_ROWS, triton.next_power_of_2(num_beams)),
        PADDED_DIM=max(16, triton.next_power_of_2(head_dim)),
        NUM_SPLITS=num_splits,
        HAS_ANCESTRY=ancestry is not None,
        HAS_BIAS=bias is not None,
        **_LAUNCH,
    )
    if num_splits > 1:
        _combine_kernel[(num_rows * num_heads,)](
            partial,
            context,
            HEAD_DIM=head_dim,
            PADDED_DIM=max(16, triton.next_power_of_2(head_dim)),
            NUM_SPLITS=num_splits,
            enable_fp_fusion=True,
        )
    return context


def num_splits_for(num_programs: int, num_processors: int) -> int:
    """How many programs share a head, so that there are about two for each multiprocessor."""
    wanted = max(1, 2 * num_processors // num_programs)
    return min(_MOST_SPLITS, 1 << (wanted.bit_length() - 1))
