"""The fused kernel, and the plain one, against attention that is written out in float64."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model_core.cuda import reference
from model_core.cuda.pages import PAGE_LEN, PagedEntries, num_pages_for
from tests.model_core.cuda.drawn import (
    TOLERANCES,
    Shape,
    assert_close,
    problem,
    shapes,
)

HAS_TRITON = importlib.util.find_spec("triton") is not None
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="there is no Triton")


@given(shapes())
def test_plain_attention_is_attention_written_out(shape: Shape) -> None:
    asked = problem(shape, torch.float32)
    assert_close(reference.attend(asked.query, asked.entries, asked.ancestry, asked.bias), asked)


@needs_triton
@settings(max_examples=20, deadline=None)
@given(shapes(), st.sampled_from([1, 2, 4]), st.sampled_from(list(TOLERANCES)))
def test_fused_attention_is_attention_written_out(
    shape: Shape, num_splits: int, dtype: torch.dtype
) -> None:
    from model_core.cuda import kernel

    if DEVICE == "cpu":
        assume(dtype != torch.bfloat16)  # the interpreter multiplies its matrices as integers
    asked = problem(shape, dtype, DEVICE)
    context = kernel.attend(
        asked.query, asked.entries, asked.ancestry, asked.bias, num_splits=num_splits
    )
    assert_close(context, asked)


@needs_triton
@settings(max_examples=15, deadline=None)
@given(shapes())
def test_both_write_the_same_entries_and_no_others(shape: Shape) -> None:
    from model_core.cuda import kernel

    asked = problem(shape, torch.float32, DEVICE)
    num_slots = len(shape.lengths)
    most = max(1, *(num_pages_for(length * shape.num_beams) for length in shape.lengths))
    pages = torch.randperm(num_slots * most).view(num_slots, most).int().to(DEVICE)
    # As the decoder has them: keys and values are parts of one product.
    rows = torch.randn(num_slots * shape.num_beams, 3, shape.num_heads, shape.head_dim)
    rows = rows.to(DEVICE)
    cache = torch.zeros((num_slots * most, shape.num_heads, PAGE_LEN, shape.head_dim))
    results = []
    for module in (kernel, reference):
        keys, values = cache.to(DEVICE, copy=True), cache.to(DEVICE, copy=True)
        entries = PagedEntries(keys, values, pages, asked.entries.lengths)
        module.write(rows[:, 1], rows[:, 2], entries)
        results.append((keys, values))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    for slot, length in enumerate(shape.lengths):
        for beam in range(shape.num_beams if length else 0):
            entry = (length - 1) * shape.num_beams + beam
            written = results[1][0][pages[slot, entry // PAGE_LEN], :, entry % PAGE_LEN]
            assert torch.equal(written, rows[slot * shape.num_beams + beam, 1])


@needs_triton
def test_few_programs_share_their_pages_and_many_do_not() -> None:
    from model_core.cuda.kernel import num_splits_for

    assert [num_splits_for(programs, 132) for programs in (16, 64, 256, 2048)] == [8, 4, 1, 1]


@needs_triton
def test_the_kernels_compile_without_a_gpu(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    dtypes = ["bf16", "fp16", "fp32"]
    command = [sys.executable, "-m", "tests.model_core.cuda.compiling", "90", *dtypes]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 2 * len(dtypes)
