"""Slots under any order of joining, leaving and finishing."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from model_core.group import Group
from model_core.lean import MAX_SLOTS_PER_GROUP, LeanRunner
from model_core.request import Output, Request
from tests.lean import load_lean, random_source
from tests.model_core.failures import assert_nobody_else_fails
from tests.parity import assert_same, generate_alone

LEAN = load_lean("bart")


class Slots(RuleBasedStateMachine):
    """Requests join and leave at random; those that stay get their own tokens all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = LEAN.runner()
        self.rng = random.Random(0)
        self.running: list[Request] = []
        self.finished: list[tuple[Request, Output]] = []
        self.number = 0

    @rule(num_beams=st.sampled_from([1, 2, 3]), count=st.integers(1, 4), longest=st.integers(2, 70))
    def admit(self, num_beams: int, count: int, longest: int) -> None:
        parameters = replace(LEAN.defaults, num_beams=num_beams, max_length=self.rng.randint(2, 12))
        joining = []
        for _ in range(count):
            self.number += 1
            source_ids = random_source(LEAN, self.rng, longest)
            joining.append(Request(str(self.number), source_ids, parameters))
        self.runner.admit(joining)
        self.running += joining

    @rule()
    def step(self) -> None:
        report = self.runner.step()
        assert report.num_rows == sum(each.parameters.num_beams for each in self.running)
        for request, output in report.finished:
            self.running.remove(request)  # raises for one that had left, or ends twice
            self.finished.append((request, output))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        leaving = [each for each in self.running if data.draw(st.booleans())]
        self.runner.remove(leaving)
        self.running = [each for each in self.running if each not in leaving]

    @invariant()
    def every_running_request_holds_one_slot(self) -> None:
        held = [each for group in self.runner._groups for each in group.requests]
        assert sorted(each.request_id for each in held) == sorted(
            each.request_id for each in self.running
        )

    @invariant()
    def groups_are_neither_empty_nor_overfull(self) -> None:
        for group in self.runner._groups:
            in_use = len(group.requests)
            assert 0 < in_use <= group.num_slots <= min(4 * in_use, MAX_SLOTS_PER_GROUP)
            assert group.search.num_slots == len(group.requests)

    def teardown(self) -> None:
        while self.running:
            self.step()
        for request, output in self.finished:
            assert_same(output, generate_alone(LEAN.model, request.source_ids, request.parameters))


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


def request(number: int, **parameters: Any) -> Request:
    source_ids = random_source(LEAN, random.Random(number))
    return Request(str(number), source_ids, replace(LEAN.defaults, **parameters))


def run(runner: LeanRunner) -> dict[Request, Output]:
    outputs: dict[Request, Output] = {}
    while (report := runner.step()).num_rows:
        outputs.update(report.finished)
    return outputs


def test_more_requests_than_slots_open_another_group() -> None:
    runner = LEAN.runner()
    requests = [request(number, max_length=4) for number in range(MAX_SLOTS_PER_GROUP + 5)]
    runner.admit(requests)
    outputs = run(runner)
    assert len(outputs) == len(requests)
    for each in requests[::9]:
        assert_same(outputs[each], generate_alone(LEAN.model, each.source_ids, each.parameters))


def test_a_new_group_has_slots_for_its_own_kind_only() -> None:
    runner = LEAN.runner()
    runner.admit([request(number, max_length=4, num_beams=1 + number) for number in range(12)])
    for group in runner._groups:
        assert group.num_slots == len(group.requests) == 1


def test_a_long_target_takes_no_memory_for_the_short_ones_beside_it() -> None:
    lean = load_lean("t5")  # no limit of positions
    runner = lean.runner()
    rng = random.Random(5)

    def new(name: str, max_length: int) -> Request:
        endless = replace(lean.defaults, eos_token_ids=(), max_length=max_length)
        return Request(name, random_source(lean, rng), endless)

    running = [new("long", 300)]
    runner.admit(running)
    while "long" in (names := {each.request_id for each in running}):
        joining = [new(f"short {n}", 20) for n in range(MAX_SLOTS_PER_GROUP)]
        joining = [each for each in joining if each.request_id not in names]
        runner.admit(joining)
        running += joining
        reserved = sum(runner.cost_bytes(each) for each in running)
        finished = dict(runner.step().finished)
        held = runner._pool.num_entries * runner._layout.bytes_per_token
        assert held <= reserved
        running = [each for each in running if each not in finished]


def test_a_target_longer_than_a_cache_block_stays_exact() -> None:
    lean = load_lean("t5")  # no limit of positions
    wanted = replace(lean.defaults, eos_token_ids=(), max_length=150, num_beams=3)
    source_ids = random_source(lean, random.Random(3))
    late = Request("late", source_ids[::-1], wanted)
    early = Request("early", source_ids, wanted)
    runner = lean.runner()
    runner.admit([early])
    for _ in range(70):
        runner.step()
    runner.admit([late])
    outputs = run(runner)
    for each in (early, late):
        assert_same(outputs[each], generate_alone(lean.model, each.source_ids, wanted))


def test_a_source_is_encoded_once_for_all_who_send_it() -> None:
    runner = LEAN.runner(encoder_cache_bytes=1 << 20)
    first, second = request(1), request(1, num_beams=4)
    assert runner.admit([first, second]).num_encoded == 1
    again = runner.admit([request(1)])
    assert (again.num_encoded, again.num_cached) == (0, 1)


def test_encode_report_counts_real_and_padded_tokens() -> None:
    runner = LEAN.runner()
    requests = [
        Request(str(length), tuple(range(5, 5 + length)), LEAN.defaults) for length in (10, 12)
    ]
    report = runner.admit(requests)
    assert (report.source_tokens, report.padded_tokens) == (22, 24)


def test_reset_frees_every_slot_and_the_runner_goes_on() -> None:
    runner = LEAN.runner()
    runner.admit([request(1), request(2, num_beams=3)])
    runner.step()
    runner.reset()
    assert runner.step().num_rows == 0
    again = request(3)
    runner.admit([again])
    reference = generate_alone(LEAN.model, again.source_ids, again.parameters)
    assert_same(run(runner)[again], reference)


def test_cost_covers_what_a_request_can_make_the_runner_allocate() -> None:
    runner = LEAN.runner()
    base = Request("a", (5,) * 10, replace(LEAN.defaults, max_length=20))
    wider = Request("b", (5,) * 10, replace(LEAN.defaults, max_length=20, num_beams=4))
    config = LEAN.model.config
    per_token = 2 * config.decoder_layers * config.d_model * torch.float32.itemsize
    per_row = 4 * LEAN.vocab * torch.float32.itemsize  # a few tensors of scores
    # Sources up to 32 tokens share a group; targets grow by blocks of 64 positions, and may
    # begin in the middle of one.
    assert runner.cost_bytes(base) == (32 + 2 * 64) * per_token + per_row
    assert runner.cost_bytes(wider) == (32 + 4 * 2 * 64) * per_token + 4 * per_row


@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_that_are_not_a_number_fail_their_request_and_no_other(num_beams: int) -> None:
    requests = [request(number, num_beams=num_beams) for number in (1, 2, 3)]
    write = Group.write_source

    def poison(
        self: Group, slot: int, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        is_poisoned = keys.shape[0] == requests[0].source_len
        write(self, slot, layer, keys, values * float("nan") if is_poisoned else values)

    assert_nobody_else_fails(
        LEAN.runner(), LEAN, requests, lambda patch: patch.setattr(Group, "write_source", poison)
    )


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("prefix", [(), (5, 6, 7, 8)], ids=["no-prefix", "in-its-prefix"])
def test_no_memory_that_is_handed_out_again_holds_what_is_not_a_number(
    num_beams: int, prefix: tuple[int, ...]
) -> None:
    bad = replace(
        request(0, num_beams=num_beams, max_length=9, target_prefix_ids=prefix),
        source_ids=(5,) * 30,
    )
    others = [
        replace(request(number, num_beams=num_beams, max_length=2), source_ids=(6,) * (9 + number))
        for number in range(1, 8)
    ]
    write = Group.write_source

    def poison(
        self: Group, slot: int, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        write(self, slot, layer, keys, values * float("nan") if len(keys) == 30 else values)

    runner = LEAN.runner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Group, "write_source", poison)
        runner.admit([bad, *others])  # the others leave in the step in which the first one fails
        report = runner.step()
    assert report.failed == (bad,)
    assert len(report.finished) == len(others)
    free = [entries for alike in runner._pool._free.values() for entries in alike]
    assert free
    for entries in free:
        assert entries.keys.isfinite().all()
        assert entries.values.isfinite().all()
