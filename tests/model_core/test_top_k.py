"""Two stages find what one finds."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_core.top_k import first_max, top_k


@settings(max_examples=40, deadline=None)
@given(
    length=st.sampled_from([1, 63, 64, 2048, 4095, 4096, 4097, 5001, 8192]),
    k=st.integers(1, 12),
    num_rows=st.integers(1, 5),
    num_banned=st.integers(0, 9000),
    seed=st.integers(0, 1000),
)
def test_the_largest_entries_of_rows_of_any_length(
    length: int, k: int, num_rows: int, num_banned: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, length, generator=generator)
    rows[:, torch.randint(length, (num_banned,), generator=generator)] = -torch.inf
    k = min(k, length)
    values, indices = top_k(rows, k)
    assert torch.equal(values, rows.topk(k).values)
    assert torch.equal(rows.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_not_a_number_counts_as_the_largest() -> None:
    rows = torch.zeros(2, 5000)
    rows[1, 4321] = torch.nan
    values, indices = top_k(rows, 2)
    assert torch.isfinite(values[0]).all()
    assert torch.isnan(values[1, 0])
    assert indices[1, 0] == 4321


@settings(max_examples=40, deadline=None)
@given(
    length=st.sampled_from([1, 64, 4095, 4096, 4097, 5001, 8192]),
    num_values=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_the_first_of_equal_maxima_is_found(length: int, num_values: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(num_values, (3, length), generator=generator).float()
    rows[1] = -torch.inf
    assert torch.equal(first_max(rows), rows.argmax(1))


def test_an_only_maximum_at_the_very_end_is_found() -> None:
    rows = torch.zeros(1, 4097)
    rows[0, 4096] = 1
    assert first_max(rows).tolist() == [4096]
