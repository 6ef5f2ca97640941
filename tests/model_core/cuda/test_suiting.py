"""What a GPU's kernels want of a decoder changes no logit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from model_core.decoder import Head, Linear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Of the largest value: a last digit."""


@settings(max_examples=20, deadline=None)
@given(
    num_rows=st.integers(1, 5),
    width=st.sampled_from([1, 48, 512, 768]),
    dtype=st.sampled_from(list(TOLERANCES)),
    seed=st.integers(0, 100),
)
def test_a_sum_is_normalised_as_in_two_operations(
    num_rows: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    pytest.importorskip("triton")
    from model_core.cuda.norm_kernel import add_norm

    generator = torch.Generator().manual_seed(seed)
    hidden, residual = torch.randn((2, num_rows, width), generator=generator).to(DEVICE, dtype)
    weight, bias = torch.randn((2, width), generator=generator).to(DEVICE, dtype)
    normed = add_norm(hidden, residual, weight, bias, 1e-5)
    expected = functional.layer_norm(hidden + residual, (width,), weight, bias, 1e-5)
    assert normed.dtype == dtype
    scale = max(1.0, float(expected.abs().max()))
    assert (normed.float() - expected.float()).abs().max() <= TOLERANCES[dtype] * scale


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("vocab_size", [15, 16])
def test_padded_outputs_are_never_seen(vocab_size: int, has_bias: bool) -> None:
    bias = torch.randn(vocab_size) if has_bias else None
    head = Head(Linear(torch.randn(vocab_size, 12), bias), scale=0.5)
    padded = head.padded_to(8)
    hidden = torch.randn(3, 12)
    assert padded.output.weight.shape[0] == 16
    assert padded.vocab_size == head.vocab_size == vocab_size
    assert torch.allclose(padded(hidden), head(hidden), atol=1e-6)
