"""Memory of a device, and what a checkpoint makes of it."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_core.checkpoint import CheckpointOptions, load_checkpoint
from model_core.choose_runner import choose_runner
from model_core.cuda.pages import PAGE_LEN, num_pages_for, places_of
from model_core.cuda.planning import CudaPlan
from model_core.cuda.runner import PooledRunner, buckets_up_to
from model_core.errors import CheckpointError
from model_core.key_values import CacheLayout
from model_core.request import Output, Request
from tests import tiny
from tests.lean import load_lean, random_source
from tests.parity import assert_same, generate_alone

LAYOUT = CacheLayout(2, 4, 16, torch.float32, torch.device("cpu"))
PAGE_BYTES = PAGE_LEN * LAYOUT.bytes_per_token


def plan(num_bytes: int) -> CudaPlan:
    return CudaPlan(
        num_bytes=num_bytes, num_slots=5, max_source_len=60, max_target_len=128, max_num_beams=3
    )


def test_there_are_pages_for_the_largest_requests_that_may_run_together_and_no_more() -> None:
    largest = 1 + 6  # a page of source, six of three beams
    assert plan(10**12).capacity(LAYOUT).num_pages == 5 * largest


def test_what_is_free_bounds_the_pages() -> None:
    assert plan(20 * PAGE_BYTES + 7).capacity(LAYOUT).num_pages == 20


def test_room_for_less_than_one_long_request_is_refused_with_both_numbers() -> None:
    assert plan(3 * PAGE_BYTES).capacity(LAYOUT).num_pages == 3
    with pytest.raises(CheckpointError, match=rf"{3 * PAGE_BYTES - 1} .* {3 * PAGE_BYTES}"):
        plan(3 * PAGE_BYTES - 1).capacity(LAYOUT)


def test_a_step_is_captured_for_numbers_of_slots_that_are_a_third_apart_or_more() -> None:
    assert buckets_up_to(12) == [1, 2, 4, 8, 12]
    assert buckets_up_to(16) == [1, 2, 4, 8, 16]
    assert buckets_up_to(100) == [1, 2, 4, 8, 16, 32, 48, 64, 96, 100]


@pytest.mark.parametrize("name", ["bart", "m2m100"])
def test_a_planned_checkpoint_is_checked_warm_and_exact(name: str, tmp_path: Path) -> None:
    tiny.build_tiny_checkpoint(name, tmp_path)
    checkpoint = load_checkpoint(str(tmp_path), CheckpointOptions(device="cpu"))
    choice = choose_runner(checkpoint, cuda=plan(10**8))
    runner = choice.runner
    assert isinstance(runner, PooledRunner)
    lean = load_lean(name)
    parameters = replace(lean.defaults, max_length=12)
    request = Request("1", random_source(lean, random.Random(0)), parameters)
    runner.admit([request])
    outputs: dict[Request, Output] = {}
    while (report := runner.step()).num_rows:
        outputs.update(report.finished)
    reference = generate_alone(checkpoint.model, request.source_ids, parameters)
    assert_same(outputs[request], reference)


def test_a_checkpoint_without_room_is_not_served(tmp_path: Path) -> None:
    tiny.build_tiny_checkpoint("bart", tmp_path)
    checkpoint = load_checkpoint(str(tmp_path), CheckpointOptions(device="cpu"))
    with pytest.raises(CheckpointError, match="may take 10 bytes"):
        choose_runner(checkpoint, cuda=plan(10))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_every_entry_has_a_place_of_its_own_in_its_owners_pages(
    lengths: list[int], rng: random.Random
) -> None:
    numbers = list(range(sum(map(num_pages_for, lengths))))
    rng.shuffle(numbers)
    pages = [[numbers.pop() for _ in range(num_pages_for(length))] for length in lengths]
    expected = [
        (own[entry // PAGE_LEN], entry % PAGE_LEN)
        for own, length in zip(pages, lengths, strict=True)
        for entry in range(length)
    ]
    assert places_of(pages, lengths).T.tolist() == [list(each) for each in expected]
