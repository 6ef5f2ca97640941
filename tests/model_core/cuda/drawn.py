"""Random attention problems: pages in any order, beams of any width, targets of any length."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from model_core.cuda.pages import PAGE_LEN, PagedEntries, num_pages_for

TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Of the largest value: the rounding of weights and results."""


@dataclass(frozen=True)
class Shape:
    """Of one step of one layer; a length of 0 is an empty slot."""

    num_beams: int
    num_heads: int
    head_dim: int
    lengths: tuple[int, ...]
    has_ancestry: bool = True
    num_distances: int | None = None
    seed: int = 0


def shapes(longest: int = 150) -> st.SearchStrategy[Shape]:
    lengths = st.one_of(
        st.sampled_from([0, 1, PAGE_LEN - 1, PAGE_LEN, PAGE_LEN + 1]), st.integers(0, longest)
    )
    return st.builds(
        Shape,
        num_beams=st.sampled_from([1, 2, 3, 4, 5, 8]),
        num_heads=st.integers(1, 3),
        head_dim=st.sampled_from([8, 32, 64, 80, 96, 128]),
        lengths=st.lists(lengths, min_size=1, max_size=4).map(tuple),
        has_ancestry=st.booleans(),
        num_distances=st.none() | st.integers(1, 40),
        seed=st.integers(0, 5),
    )


@dataclass
class Problem:
    """Arguments of `attend`; whatever a slot does not hold is NaN."""

    query: Tensor
    entries: PagedEntries
    ancestry: Tensor | None
    bias: Tensor | None


def problem(shape: Shape, dtype: torch.dtype, device: str = "cpu") -> Problem:
    generator = torch.Generator().manual_seed(shape.seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    num_slots, num_beams = len(shape.lengths), shape.num_beams
    per_position = num_beams if shape.has_ancestry else 1
    most = max(1, *(num_pages_for(length * per_position) for length in shape.lengths))
    num_pages = most * num_slots
    cache = (num_pages, shape.num_heads, PAGE_LEN, shape.head_dim)
    pages = torch.randperm(num_pages, generator=generator).view(num_slots, most)
    keys, values = torch.full(cache, torch.nan), torch.full(cache, torch.nan)
    keys, values = keys.to(device, dtype), values.to(device, dtype)
    for slot, length in enumerate(shape.lengths):
        for entry in range(length * per_position):
            page, place = pages[slot, entry // PAGE_LEN], entry % PAGE_LEN
            keys[page, :, place] = normal(shape.num_heads, shape.head_dim)
            values[page, :, place] = normal(shape.num_heads, shape.head_dim)
    ancestry = bias = None
    if shape.has_ancestry:
        longest = max(1, *shape.lengths)
        ancestry = torch.randint(num_beams, (num_slots, num_beams, longest), generator=generator)
        ancestry = ancestry.to(device, torch.int16)
        if shape.num_distances is not None:
            bias = normal(shape.num_heads, shape.num_distances).float()
    return Problem(
        query=normal(num_slots * num_beams, shape.num_heads, shape.head_dim) * shape.head_dim**-0.5,
        entries=PagedEntries(
            keys,
            values,
            pages.to(device, torch.int32),
            torch.tensor(shape.lengths, dtype=torch.int32, device=device),
        ),
        ancestry=ancestry,
        bias=bias,
    )


def written_out(problem: Problem) -> Tensor:
    """Row by row and head by head, in float64: what attention over pages means."""
    num_slots = problem.entries.lengths.shape[0]
    num_beams = problem.query.shape[0] // num_slots
    context = torch.zeros(problem.query.shape, dtype=torch.float64)
    for row, heads in enumerate(problem.query.double().cpu()):
        slot, beam = divmod(row, num_beams)
        length = int(problem.entries.lengths[slot])
        entries, positions = [], range(length)
        for position in positions:
            entry = position
            if problem.ancestry is not None:
                entry = position * num_beams + int(problem.ancestry[slot, beam, position])
            entries.append((int(problem.entries.pages[slot, entry // PAGE_LEN]), entry % PAGE_LEN))
        if not entries:
            continue
        page_ids, places = torch.tensor(entries).T
        keys = problem.entries.keys[page_ids, :, places].double().cpu()
        values = problem.entries.values[page_ids, :, places].double().cpu()
        for head, query in enumerate(heads):
            products = keys[:, head] @ query
            if problem.bias is not None:
                most = problem.bias.shape[1] - 1
                distances = [min(length - 1 - position, most) for position in positions]
                products = products + problem.bias[head, distances].double().cpu()
            context[row, head] = products.softmax(0) @ values[:, head]
    return context.flatten(1)


def assert_close(context: torch.Tensor, asked: Problem) -> None:
    expected = written_out(asked)
    scale = max(1.0, float(expected.abs().max()))
    difference = (context.double().cpu() - expected).abs().max()
    assert difference <= TOLERANCES[context.dtype] * scale  # NaN is not below any tolerance
