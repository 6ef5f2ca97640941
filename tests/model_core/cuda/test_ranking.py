"""What is best, found by the kernels and by plain torch."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_core.cuda.ranking import PlainRanking, Ranking, fused_ranking

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="there is no Triton"
)


def rankings() -> Iterator[Ranking]:
    yield PlainRanking()
    if importlib.util.find_spec("triton") is not None:
        yield fused_ranking()


def drawn(
    num_slots: int, num_beams: int, vocab_size: int, dtype: torch.dtype, seed: int, device: str
) -> tuple[Tensor, Tensor]:
    """Logits whose rows lie further apart than they are long, some banned; and live scores."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((num_slots * num_beams, vocab_size + 3), generator=generator)
    rows[:, vocab_size:] = torch.nan  # never looked at
    banned = torch.randint(vocab_size, (vocab_size // 4,), generator=generator)
    rows[:, banned] = -torch.inf
    live_scores = torch.randn((num_slots, num_beams), generator=generator) * 3
    logits = rows.to(device, dtype)[:, :vocab_size].view(num_slots, num_beams, -1)
    return logits, live_scores.to(device)


@settings(max_examples=40, deadline=None)
@given(
    num_slots=st.integers(1, 3),
    num_beams=st.integers(1, 5),
    vocab_size=st.sampled_from([40, 255, 256, 257, 5000, 20_001]),
    num_best=st.sampled_from([1, 2, 8, 40]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 1000),
)
def test_the_best_continuations_are_those_of_all_written_out(
    num_slots: int, num_beams: int, vocab_size: int, num_best: int, dtype: torch.dtype, seed: int
) -> None:
    logits, live_scores = drawn(num_slots, num_beams, vocab_size, dtype, seed, DEVICE)
    exact = logits.double()
    for ranking in rankings():
        normalizers = ranking.log_sum_exp(logits)
        assert torch.allclose(normalizers.double(), exact.logsumexp(-1), rtol=1e-5, atol=1e-5)
        found, parents, token_ids = ranking.best(logits, normalizers, live_scores, num_best)
        totals = (logits.float() - normalizers[..., None]) + live_scores[..., None]
        assert torch.equal(found, totals.flatten(1).topk(num_best).values)
        flat = parents * vocab_size + token_ids
        assert torch.equal(totals.flatten(1).gather(1, flat), found)
        assert all(len(set(row)) == num_best for row in flat.tolist())


@pytest.mark.parametrize("vocab_size", [300, 9000])
def test_the_first_of_equals_is_best(vocab_size: int) -> None:
    logits = torch.zeros((1, 2, vocab_size), device=DEVICE)
    logits[0, :, vocab_size - 40 :] = 1.0
    nothing = torch.zeros((1, 2), device=DEVICE)
    for ranking in rankings():
        _, parents, token_ids = ranking.best(logits, nothing, nothing, 1)
        assert (parents.tolist(), token_ids.tolist()) == ([[0]], [[vocab_size - 40]])


@needs_triton
def test_a_kernel_takes_all_equals_in_their_order() -> None:
    nothing = torch.zeros((1, 2), device=DEVICE)
    logits = torch.ones((1, 2, 1000), device=DEVICE)
    _, parents, token_ids = fused_ranking().best(logits, nothing, nothing, 5)
    assert (parents.tolist(), token_ids.tolist()) == ([[0] * 5], [[0, 1, 2, 3, 4]])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's NumPy
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_a_number_gives_none_and_no_other_row_feels_it(value: float) -> None:
    logits = torch.zeros((2, 1, 700), device=DEVICE)
    logits[1, 0, 600] = value
    nothing = torch.zeros((2, 1), device=DEVICE)
    for ranking in rankings():
        found, _, _ = ranking.best(logits, ranking.log_sum_exp(logits), nothing, 2)
        assert found[0].isfinite().all()
        assert found[1].isnan().any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_where_all_is_banned_nothing_is_finite() -> None:
    logits = torch.full((1, 1, 700), -torch.inf, device=DEVICE)
    nothing = torch.zeros((1, 1), device=DEVICE)
    for ranking in rankings():
        found, _, _ = ranking.best(logits, ranking.log_sum_exp(logits), nothing, 2)
        assert not found.isfinite().any()
