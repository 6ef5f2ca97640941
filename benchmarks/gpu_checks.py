"""Are the answers of a GPU right? Attention against float64, tokens against `generate()`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.libraries import Knobs, Tandem, Transformers
from benchmarks.workloads import Item, Task
from model_core.cuda import reference
from model_core.cuda.attention import PagedAttention, attention_on
from model_core.cuda.pages import PAGE_LEN, PagedEntries, num_pages_for

_HEAD_DIMS = (32, 64, 80, 128)
_NUM_BEAMS = (1, 3, 4, 8)
_LENGTHS = (0, 1, 63, 64, 65, 130)
_NUM_HEADS = 2


@dataclass(frozen=True)
class _Case:
    """One call of attention, apart from its dtype."""

    query: Tensor
    entries: PagedEntries
    ancestry: Tensor | None
    bias: Tensor | None

    def attend(self, attention: PagedAttention | Any, dtype: torch.dtype) -> Tensor:
        """With queries, keys and values of a dtype."""
        context: Tensor = attention.attend(
            self.query.to(dtype),
            replace(
                self.entries,
                keys=self.entries.keys.to(dtype),
                values=self.entries.values.to(dtype),
            ),
            self.ancestry,
            self.bias,
        )
        return context


def attention_differences(device: torch.device) -> dict[str, float]:
    """Largest difference of attention to float64 by dtype, relative to the largest value."""
    attention = attention_on(device)
    return {
        str(dtype).removeprefix("torch."): max(
            _difference(case, attention, dtype) for case in _cases(device)
        )
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }


def _difference(case: _Case, attention: PagedAttention, dtype: torch.dtype) -> float:
    found = case.attend(attention, dtype).double()
    expected = case.attend(reference, torch.float64)
    return float((found - expected).abs().max() / expected.abs().max())


def _cases(device: torch.device) -> Iterator[_Case]:
    generator = torch.Generator().manual_seed(0)
    for head_dim, num_beams, is_self in product(_HEAD_DIMS, _NUM_BEAMS, (True, False)):
        per_position = num_beams if is_self else 1
        num_slots, most = len(_LENGTHS), num_pages_for(max(_LENGTHS) * per_position)
        cache = (num_slots * most, _NUM_HEADS, PAGE_LEN, head_dim)
        # Values of bfloat16, so that every dtype gets the same numbers.
        query, keys, values = (
            torch.randn(shape, generator=generator).bfloat16().double().to(device)
            for shape in ((num_slots * num_beams, _NUM_HEADS, head_dim), cache, cache)
        )
        pages = torch.randperm(num_slots * most, generator=generator).view(num_slots, most)
        shape = (num_slots, num_beams, max(_LENGTHS))
        ancestry = torch.randint(num_beams, shape, generator=generator)
        bias = torch.randn((_NUM_HEADS, 32), generator=generator)
        yield _Case(
            query * 0.125,
            PagedEntries(
                keys,
                values,
                pages.int().to(device),
                torch.tensor(_LENGTHS, dtype=torch.int32, device=device),
            ),
            ancestry.short().to(device) if is_self else None,
            bias.to(device) if is_self else None,
        )


def parity_rate(folder: Path, task: Task, items: Sequence[Item], knobs: Knobs) -> float:
    """Share of the answers that are those of `generate()`, one request at a time, in one dtype."""
    tandem = Tandem(folder, task, knobs)
    ours = tandem.decode(items)
    tandem.close()
    alone = Transformers(folder, task, Knobs(1, device=knobs.device, dtype=knobs.dtype))
    theirs = alone.decode(items)
    same = [mine.text == other.text for mine, other in zip(ours, theirs, strict=True)]
    return sum(same) / len(same)
