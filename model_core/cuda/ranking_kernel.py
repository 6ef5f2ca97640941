"""The best continuations of hypotheses, in Triton: no row is sorted, nor normalised as a whole.

A program finds the best entries of a chunk of a row one after the other, each as the largest of
integer keys that hold a value and its place; another does the same with what all chunks of a slot
have found. Runs under Triton's interpreter on a CPU, as `model_core.cuda.kernel` does.
`model_core.cuda.ranking` says the same in plain torch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_core.search import Ranked

_MOST_CHUNKS = 32
_SHORTEST_CHUNK = 256
_LONGEST_SHORT = 1 << 15  # places of a short key
_FEW_BEAMS = 8
_KEYS_OF_FOUR_WARPS = 4096
_BLOCK = 4096
"""Logits that a program for a whole row reads at a time."""
_NOTHING = tl.constexpr(-(1 << 63))
_SHORT_NOTHING = tl.constexpr(-(1 << 31))
"""Keys of what is no candidate: below those of all values."""
_TRITON_DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


@triton.jit
def _keys_of(values, places):  # type: ignore[no-untyped-def]
    """Integers in the order of float32 values; of equal ones the first place is the largest."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)  # -0 is 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (places ^ 0x7FFFFFFF).to(tl.int64)


@triton.jit
def _value_of(keys):  # type: ignore[no-untyped-def]
    ordered = (keys >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _place_of(keys):  # type: ignore[no-untyped-def]
    return (keys & 0x7FFFFFFF).to(tl.int32) ^ 0x7FFFFFFF


@triton.jit
def _short_keys_of(values, places):  # type: ignore[no-untyped-def]
    """The same of values in half precision, in half the bits; places below 2^15."""
    bits = values.to(tl.int16, bitcast=True).to(tl.int32)
    bits = tl.where(bits == -0x8000, 0, bits)  # -0 is 0
    ordered = bits ^ ((bits >> 15) & 0x7FFF)
    return (ordered << 15) | (places ^ 0x7FFF)


@triton.jit  # type: ignore[untyped-decorator]
def _short_value_of(keys, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    ordered = keys >> 15
    bits = (ordered ^ ((ordered >> 15) & 0x7FFF)).to(tl.int16)
    return bits.to(DTYPE, bitcast=True).to(tl.float32)


@triton.jit
def _short_place_of(keys):  # type: ignore[no-untyped-def]
    return (keys & 0x7FFF) ^ 0x7FFF


@triton.jit  # type: ignore[untyped-decorator]
def _log_sum_exp_kernel(  # type: ignore[no-untyped-def]
    rows_ptr,
    sums_ptr,
    row_stride,
    length,
    BLOCK: tl.constexpr,  # noqa: N803
):
    """One row: every lane keeps the largest of its entries and the sum beside it."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, length, BLOCK):
        places = first + lanes
        entries = tl.load(
            rows_ptr + row * row_stride + places, mask=places < length, other=float("-inf")
        ).to(tl.float32)
        new_best = tl.maximum(best, entries)
        # A lane that has seen nothing yet: any finite number will do.
        offset = tl.where(new_best == float("-inf"), 0.0, new_best)
        total = total * tl.exp(best - offset) + tl.exp(entries - offset)
        best = new_best
    of_row = tl.max(best, 0)
    offset = tl.where(of_row == float("-inf"), 0.0, of_row)
    tl.store(sums_ptr + row, offset + tl.log(tl.sum(total * tl.exp(best - offset), 0)))


@triton.jit  # type: ignore[untyped-decorator]
def _chunk_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,
    keys_ptr,
    row_stride,
    length,
    CHUNK: tl.constexpr,  # noqa: N803
    NUM_BEST: tl.constexpr,  # noqa: N803
    IS_SHORT: tl.constexpr,  # noqa: N803
):
    """The best entries of one chunk of one row, [NUM_BEST] keys with places in the chunk."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    places = tl.arange(0, CHUNK)
    is_there = chunk * CHUNK + places < length
    logits_at = logits_ptr + row * row_stride + chunk * CHUNK + places
    logits = tl.load(logits_at, mask=is_there, other=0.0)
    if IS_SHORT:
        keys = tl.where(is_there, _short_keys_of(logits, places), _SHORT_NOTHING)
    else:
        keys = tl.where(is_there, _keys_of(logits.to(tl.float32), places), _NOTHING)
    first = (row * tl.num_programs(1) + chunk) * NUM_BEST
    for rank in range(NUM_BEST):
        best = tl.max(keys, 0)
        tl.store(keys_ptr + first + rank, best)
        keys = tl.where(keys == best, _SHORT_NOTHING if IS_SHORT else _NOTHING, keys)


@triton.jit  # type: ignore[untyped-decorator]
def _slot_kernel(  # type: ignore[no-untyped-def]
    keys_ptr,
    normalizers_ptr,
    live_scores_ptr,
    scores_ptr,
    parents_ptr,
    token_ids_ptr,
    vocab_size,
    NUM_BEAMS: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    NUM_CHUNKS: tl.constexpr,  # noqa: N803
    OF_CHUNK: tl.constexpr,  # noqa: N803
    NUM_BEST: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    DTYPE: tl.constexpr,  # noqa: N803
    IS_SHORT: tl.constexpr,  # noqa: N803
):
    """The best of all rows of one slot, of what is best in the chunks of each."""
    slot = tl.program_id(0).to(tl.int64)
    indices = tl.arange(0, PADDED)
    is_there = indices < NUM_BEAMS * NUM_CHUNKS * OF_CHUNK
    keys_at = keys_ptr + slot * (NUM_BEAMS * NUM_CHUNKS * OF_CHUNK) + indices
    if IS_SHORT:
        keys = tl.load(keys_at, mask=is_there, other=_SHORT_NOTHING)
        is_there = is_there & (keys != _SHORT_NOTHING)
        logits, places = _short_value_of(keys, DTYPE), _short_place_of(keys)
    else:
        keys = tl.load(keys_at, mask=is_there, other=_NOTHING)
        is_there = is_there & (keys != _NOTHING)
        logits, places = _value_of(keys), _place_of(keys)
    beams = indices // (NUM_CHUNKS * OF_CHUNK)
    tokens = indices // OF_CHUNK % NUM_CHUNKS * CHUNK + places
    rows = slot * NUM_BEAMS + beams
    normalizers = tl.load(normalizers_ptr + rows, mask=is_there, other=0.0)
    live_scores = tl.load(live_scores_ptr + rows, mask=is_there, other=0.0)
    ranked = _keys_of((logits - normalizers) + live_scores, beams * vocab_size + tokens)
    ranked = tl.where(is_there, ranked, _NOTHING)
    for rank in range(NUM_BEST):
        best = tl.max(ranked, 0)
        at = slot * NUM_BEST + rank
        place = _place_of(best)
        tl.store(scores_ptr + at, _value_of(best))
        tl.store(parents_ptr + at, (place // vocab_size).to(tl.int64))
        tl.store(token_ids_ptr + at, (place % vocab_size).to(tl.int64))
        ranked = tl.where(ranked == best, _NOTHING, ranked)


class FusedRanking:
    """By these kernels."""

    def log_sum_exp(self, rows: Tensor) -> Tensor:
        """See `Ranking`."""
        flat = rows.flatten(0, -2)
        sums = torch.empty(len(flat), dtype=torch.float32, device=rows.device)
        _log_sum_exp_kernel[(len(flat),)](
            flat, sums, flat.stride(0), flat.shape[1], BLOCK=_BLOCK, num_warps=8
        )
        return sums.view(rows.shape[:-1])

    def best(
        self, logits: Tensor, normalizers: Tensor, live_scores: Tensor, num_best: int
    ) -> Ranked:
        """See `Ranking`."""
        num_slots, num_beams, vocab_size = logits.shape
        rows, device = logits.flatten(0, 1), logits.device
        chunk = chunk_for(vocab_size, num_beams)
        num_chunks, of_chunk = triton.cdiv(vocab_size, chunk), min(num_best, chunk)
        padded = triton.next_power_of_2(num_beams * num_chunks * of_chunk)
        is_short = logits.dtype != torch.float32 and chunk <= _LONGEST_SHORT
        keys_dtype = torch.int32 if is_short else torch.int64
        keys = torch.empty((len(rows), num_chunks, of_chunk), dtype=keys_dtype, device=device)
        _chunk_kernel[(len(rows), num_chunks)](
            rows,
            keys,
            rows.stride(0),
            vocab_size,
            CHUNK=chunk,
            NUM_BEST=of_chunk,
            IS_SHORT=is_short,
            num_warps=_warps_for(chunk),
        )
        shape = (num_slots, num_best)
        found = torch.empty(shape, dtype=torch.float32, device=device)
        parents = torch.empty(shape, dtype=torch.int64, device=device)
        token_ids = torch.empty_like(parents)
        _slot_kernel[(num_slots,)](
            keys,
            normalizers,
            live_scores,
            found,
            parents,
            token_ids,
            vocab_size,
            NUM_BEAMS=num_beams,
            CHUNK=chunk,
            NUM_CHUNKS=num_chunks,
            OF_CHUNK=of_chunk,
            NUM_BEST=num_best,
            PADDED=padded,
            DTYPE=_TRITON_DTYPES[logits.dtype],
            IS_SHORT=is_short,
            num_warps=_warps_for(padded),
        )
        return found, parents, token_ids


def _warps_for(num_keys: int) -> int:
    """Enough for their registers to hold so many keys."""
    return (
        4 if num_keys <= _KEYS_OF_FOUR_WARPS else 8 if num_keys <= 2 * _KEYS_OF_FOUR_WARPS else 16
    )


def chunk_for(vocab_size: int, num_beams: int) -> int:
    """Entries of a row that one program looks at: of many beams fewer chunks fit into another."""
    num_chunks = _MOST_CHUNKS if num_beams <= _FEW_BEAMS else _MOST_CHUNKS // 2
    wanted: int = triton.next_power_of_2(triton.cdiv(vocab_size, num_chunks))
    return max(_SHORTEST_CHUNK, wanted)
