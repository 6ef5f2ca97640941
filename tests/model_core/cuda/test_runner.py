"""The runner of CUDA on a CPU: the functions that are captured there are called here."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from torch import Tensor

from model_core.cuda.device import Fetched, HostDevice, Mark
from model_core.cuda.pages import PAGE_LEN
from model_core.cuda.pool import STEPS_AHEAD
from model_core.cuda.runner import PooledRunner
from model_core.decoder import Decoder
from model_core.errors import InvalidParameterError, SourceTooLongError
from model_core.request import Output, Request
from model_core.search import Newcomer, Search
from tests.lean import Lean, load_lean, parameter_choices, parameters_of, random_source
from tests.model_core.cuda.runners import MAX_SOURCE_LEN, MAX_TARGET_LEN, pooled_runner
from tests.model_core.failures import assert_nobody_else_fails
from tests.parity import assert_same, generate_alone
from tests.properties.plans import Plan, plans
from tests.properties.runs import Run

LEAN = load_lean("bart")
ARCHITECTURES = ("bart", "m2m100", "t5", "umt5", "roberta2roberta", "bert2gpt2")
CAPTURED = (
    "max_length",
    "min_length",
    "num_beams",
    "num_return_sequences",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "target_prefix_ids",
    "decoder_start_token_id",
    "renormalize_logits",
)
"""Parameters that a captured step can serve, as far as it was captured for them."""


def warm_up(runner: PooledRunner, lean: Lean) -> None:
    """Capture steps for every beam width that is drawn, for all that can be captured."""
    choices = parameter_choices(lean.name)
    named = {
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.3,
        "forced_bos_token_id": choices["forced_bos_token_id"][1],
        "forced_eos_token_id": choices["forced_eos_token_id"][2],
        "renormalize_logits": True,
        "bad_words_ids": (choices["suppress_tokens"][1][:1], choices["suppress_tokens"][1][1:2]),
    }
    runner.warm_up([parameters_of(lean, {**named, "num_beams": n}) for n in (1, 2, 3, 4)])


@pytest.mark.parametrize("only", [CAPTURED, None], ids=["captured", "any"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_answer_is_that_of_generate_and_nothing_is_left(
    name: str, only: tuple[str, ...] | None
) -> None:
    lean = load_lean(name)
    choices = (*(only or ()), "bad_words_ids") if only else None

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(plans(name, choices), st.sampled_from([1, lean.vocab + 3]))
    def run(plan: Plan, outputs_multiple: int) -> None:
        runner = pooled_runner(
            lean,
            encoder_cache_bytes=plan.encoder_cache_bytes,
            outputs_multiple=outputs_multiple,
        )
        warm_up(runner, lean)
        each = Run(name, plan, runner)
        each.play()
        each.check()

    run()


class Slots(RuleBasedStateMachine):
    """Requests join and leave at random; those that stay get their own tokens all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = pooled_runner(LEAN, num_slots=6)
        warm_up(self.runner, LEAN)
        self.rng = random.Random(0)
        self.running: list[Request] = []
        self.finished: list[tuple[Request, Output]] = []
        self.number = 0

    @rule(num_beams=st.sampled_from([1, 2, 3]), count=st.integers(1, 3), longest=st.integers(2, 70))
    def admit(self, num_beams: int, count: int, longest: int) -> None:
        parameters = replace(LEAN.defaults, num_beams=num_beams, max_length=self.rng.randint(2, 12))
        joining = []
        for _ in range(min(count, 6 - len(self.running))):
            self.number += 1
            source_ids = random_source(LEAN, self.rng, longest)
            joining.append(Request(str(self.number), source_ids, parameters))
        self.runner.admit(joining)
        self.running += joining

    @rule()
    def step(self) -> None:
        for request, output in self.runner.step().finished:
            self.running.remove(request)  # raises for one that had left, or ends twice
            self.finished.append((request, output))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        leaving = [each for each in self.running if data.draw(st.booleans())]
        self.runner.remove(leaving)
        self.running = [each for each in self.running if each not in leaving]

    @rule()
    def reset(self) -> None:
        self.runner.reset()
        self.running = []

    @invariant()
    def running_requests_hold_what_they_cost_and_no_more(self) -> None:
        held = self.runner.num_pages - self.runner.num_free_pages
        page_bytes = self.runner.cache_bytes // self.runner.num_pages
        assert held * page_bytes == sum(map(self.runner.cost_bytes, self.running))

    def teardown(self) -> None:
        while self.running:
            self.step()
        for request, output in self.finished:
            assert_same(output, generate_alone(LEAN.model, request.source_ids, request.parameters))


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)


def request(number: int, lean: Lean = LEAN, **parameters: Any) -> Request:
    source_ids = random_source(lean, random.Random(number))
    return Request(str(number), source_ids, replace(lean.defaults, **parameters))


def run(runner: PooledRunner) -> dict[Request, Output]:
    outputs: dict[Request, Output] = {}
    while (report := runner.step()).num_rows:
        outputs.update(report.finished)
    return outputs


@pytest.mark.parametrize("is_captured", [True, False], ids=["captured", "eager"])
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_the_fused_kernels_serve_too(name: str, is_captured: bool) -> None:
    pytest.importorskip("triton")
    lean = load_lean(name)
    runner = pooled_runner(lean, num_slots=2, is_fused=True)
    requests = [request(n, lean, num_beams=n, max_length=5) for n in (1, 3)]
    if is_captured:
        runner.warm_up([each.parameters for each in requests])
    runner.admit(requests)
    outputs = run(runner)
    for each in requests:
        assert_same(outputs[each], generate_alone(lean.model, each.source_ids, each.parameters))


@pytest.mark.parametrize("is_captured", [True, False], ids=["captured", "eager"])
def test_logits_may_lie_further_apart_than_they_are_long(is_captured: bool) -> None:
    runner = pooled_runner(LEAN, num_slots=2, outputs_multiple=LEAN.vocab + 5)
    requests = [request(n, num_beams=n, max_length=9) for n in (1, 3)]
    if is_captured:
        runner.warm_up([each.parameters for each in requests])
    runner.admit(requests)
    outputs = run(runner)
    for each in requests:
        assert_same(outputs[each], generate_alone(LEAN.model, each.source_ids, each.parameters))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_target_of_several_pages_stays_exact(num_beams: int) -> None:
    lean = load_lean("t5")  # no limit of positions
    runner = pooled_runner(lean)
    warm_up(runner, lean)
    early, late = (
        request(n, lean, eos_token_ids=(), max_length=150, num_beams=num_beams) for n in (3, 4)
    )
    runner.admit([early])
    for _ in range(70):
        runner.step()
    runner.admit([late])
    outputs = run(runner)
    for each in (early, late):
        assert_same(outputs[each], generate_alone(lean.model, each.source_ids, each.parameters))


def test_a_request_ends_in_the_report_of_a_later_step() -> None:
    runner = pooled_runner(LEAN)
    runner.admit([request(1, max_length=3, eos_token_ids=())])
    num_steps = 2
    ends = [len(runner.step().finished) for _ in range(num_steps + STEPS_AHEAD + 1)]
    assert ends == [0] * (num_steps + STEPS_AHEAD - 1) + [1, 0]


def test_a_request_ends_as_soon_as_its_end_is_there() -> None:
    runner = pooled_runner(LEAN, device=PromptDevice())
    runner.admit([request(1, max_length=3, eos_token_ids=())])
    assert [len(runner.step().finished) for _ in range(3)] == [0, 1, 0]


class PromptDevice(HostDevice):
    """What is fetched from it is there at once."""

    def fetch(self, tensor: Tensor) -> Fetched:
        return _There(super().fetch(tensor).get())


@dataclass(frozen=True)
class _There:
    tensor: Tensor

    def is_there(self) -> bool:
        return True

    def get(self) -> Tensor:
        return self.tensor


def test_more_requests_than_slots_wait_encoded_for_the_next_ones() -> None:
    runner = pooled_runner(LEAN, num_slots=3)
    warm_up(runner, LEAN)
    lengths = (4, 9, 9, 9, 4)
    requests = [
        request(number, max_length=length, eos_token_ids=(), num_beams=1 + number % 2)
        for number, length in enumerate(lengths)
    ]
    runner.admit(requests[:4])
    runner.admit(requests[4:])
    outputs: dict[Request, Output] = {}
    num_running = []
    while len(outputs) < len(requests):
        outputs.update(runner.step().finished)
        running = {each for pool in runner.pools for each in pool.requests}
        num_running.append(len(running))
        # One that ends makes room for the next, in the order in which they came.
        assert running <= set(requests[: 3 + len(outputs)])
    assert max(num_running) == 3
    for each in requests:
        assert_same(outputs[each], generate_alone(LEAN.model, each.source_ids, each.parameters))


class _Promise(Mark):
    """A mark that is reached when the test says so."""

    def __init__(self, device: "SlowEncoder") -> None:
        self._device = device

    def is_reached(self) -> bool:
        return self._device.is_done


class SlowEncoder(HostDevice):
    """A device whose encoder passes end when the test says so."""

    is_done = True

    def mark(self) -> Mark:
        return _Promise(self)


def test_nobody_waits_for_the_encoder_pass_of_a_stranger() -> None:
    device = SlowEncoder()
    runner = pooled_runner(LEAN, device=device)
    first, second = request(1, max_length=8, eos_token_ids=()), request(2, max_length=8)
    runner.admit([first])
    assert runner.step().num_rows == 1
    device.is_done = False
    runner.admit([second])
    assert [runner.step().num_rows for _ in range(3)] == [1, 1, 1]
    device.is_done = True
    assert runner.step().num_rows == 2
    outputs = run(runner)
    for each in (first, second):
        assert_same(outputs[each], generate_alone(LEAN.model, each.source_ids, each.parameters))


def test_those_who_run_go_on_beside_a_pass_of_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_core.cuda.runner._TOKENS_BESIDE_A_STEP", 1)
    runner = pooled_runner(LEAN)
    first = request(1, max_length=40, eos_token_ids=())
    runner.warm_up([first.parameters])
    runner.admit([first])
    reports = [runner.step() for _ in range(5)]
    assert [report.num_steps for report in reports] == [1] * 5
    (pool,) = [each for each in runner.pools if each.requests]
    assert pool.num_under_way == STEPS_AHEAD
    second = Request("2", random_source(LEAN, random.Random(2), 60), first.parameters)
    runner.admit([second])
    assert pool.num_under_way == min(STEPS_AHEAD + second.source_len, 12) > STEPS_AHEAD
    num_ahead = pool.num_under_way - STEPS_AHEAD
    assert runner.step().num_steps == num_ahead + 1
    assert pool.num_under_way == STEPS_AHEAD
    outputs = run(runner)
    for each in (first, second):
        assert_same(outputs[each], generate_alone(LEAN.model, each.source_ids, each.parameters))


def test_where_nobody_runs_a_step_begins_behind_the_encoder_pass() -> None:
    device = SlowEncoder()
    device.is_done = False
    runner = pooled_runner(LEAN, device=device)
    runner.admit([request(1)])
    assert runner.step().num_rows == 1


def test_a_request_may_leave_before_it_has_joined() -> None:
    device = SlowEncoder()
    runner = pooled_runner(LEAN, device=device)
    staying, leaving = request(1), request(2)
    runner.admit([staying])
    runner.step()
    device.is_done = False
    runner.admit([leaving])
    runner.remove([leaving])
    device.is_done = True
    assert list(run(runner)) == [staying]
    assert runner.num_free_pages == runner.num_pages


def test_slots_that_move_while_ends_are_under_way_change_no_result() -> None:
    runner = pooled_runner(LEAN)
    requests = [request(n, max_length=n + 3, num_beams=1 + n % 2) for n in range(6)]
    runner.admit(requests)
    outputs = run(runner)
    for each in requests:
        assert_same(outputs[each], generate_alone(LEAN.model, each.source_ids, each.parameters))


def test_who_has_ended_writes_to_nobodys_pages() -> None:
    num_beams, of_one_page = 4, PAGE_LEN // 4
    first, ending = (
        request(n, max_length=of_one_page, num_beams=num_beams, eos_token_ids=()) for n in (1, 2)
    )
    staying = request(3, max_length=2 * of_one_page, num_beams=num_beams, eos_token_ids=())
    runner = pooled_runner(LEAN, num_pages=(1 + 1) + (1 + 2))
    runner.admit([first])
    runner.admit([staying])  # gets the page whose number stands where a slot has none
    for _ in range(3):
        runner.step()
    runner.remove([first])
    runner.admit([ending])
    outputs = run(runner)
    for each in (ending, staying):
        assert_same(outputs[each], generate_alone(LEAN.model, each.source_ids, each.parameters))


def test_what_has_no_slot_is_refused_by_name() -> None:
    runner = pooled_runner(LEAN)
    source = Request("1", (5,) * (MAX_SOURCE_LEN + 1), LEAN.defaults)
    with pytest.raises(SourceTooLongError):
        runner.cost_bytes(source)
    with pytest.raises(InvalidParameterError, match="max_length"):
        runner.cost_bytes(request(1, max_length=MAX_TARGET_LEN + 1))


@pytest.mark.parametrize("place", ["encoded", "seated"])
def test_a_failure_costs_only_the_request_at_fault(place: str) -> None:
    runner = pooled_runner(LEAN)
    warm_up(runner, LEAN)
    requests = [request(number, num_beams=2) for number in range(4)]
    encode, admit = runner._encoder, Search.admit

    def raise_if_poisoned(sources: Sequence[Sequence[int]]) -> None:
        if requests[0].source_ids in sources:
            raise RuntimeError("poisoned source")

    def encode_or_raise(sources: Any) -> Any:
        raise_if_poisoned(sources)
        return encode(sources)

    def admit_or_raise(search: Search, newcomers: Sequence[Newcomer]) -> range:
        raise_if_poisoned([source_ids for _, source_ids in newcomers])
        return admit(search, newcomers)

    def poison(patch: pytest.MonkeyPatch) -> None:
        if place == "encoded":
            patch.setattr(runner, "_encoder", encode_or_raise)
        else:
            patch.setattr(Search, "admit", admit_or_raise)

    assert_nobody_else_fails(runner, LEAN, requests, poison)
    assert runner.num_free_pages == runner.num_pages


def test_a_slot_that_was_left_attends_to_nothing() -> None:
    runner = pooled_runner(LEAN)
    warm_up(runner, LEAN)
    first, *others = (request(number, max_length=20, eos_token_ids=()) for number in range(3))
    runner.admit([first, *others])
    runner.step()
    (pool,) = [pool for pool in runner.pools if pool.requests]
    table = pool.context(3).table
    runner.remove(others)
    assert table.source_lens[:3].tolist() == [first.source_len, 0, 0]
    assert table.lengths[:3].tolist() == [2, 0, 0]
    runner.reset()
    assert not table.source_lens.any()
    assert not table.lengths.any()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_that_are_not_a_number_fail_their_request_and_no_other(num_beams: int) -> None:
    runner = pooled_runner(LEAN)
    warm_up(runner, LEAN)
    requests = [request(number, num_beams=num_beams) for number in (1, 2, 3)]
    project = Decoder.project_sources

    def poison(self: Decoder, encoder_outputs: torch.Tensor) -> Any:
        for keys, values in project(self, encoder_outputs):
            values = values.clone()
            values[: requests[0].source_len] = torch.nan
            yield keys, values

    assert_nobody_else_fails(
        runner, LEAN, requests, lambda patch: patch.setattr(Decoder, "project_sources", poison)
    )
