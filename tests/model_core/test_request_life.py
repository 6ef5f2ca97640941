"""Any order of submitting, stepping, cancelling, expiring, failing and draining."""

import logging
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from model_core.engine import Engine
from model_core.errors import (
    DeadlineExceededError,
    EngineClosedError,
    QueueFullError,
    RequestFailedError,
)
from model_core.observer import NullObserver, Outcome
from model_core.request import Output
from model_core.scheduler import EngineLimits
from tests.model_core.fakes import (
    POISON_IN_ENCODER,
    POISON_IN_STEP,
    Clock,
    FakeRunner,
    answer_to,
    parameters,
)

MODELS = ("a", "b")
POISONS = {POISON_IN_ENCODER, POISON_IN_STEP}


@dataclass(eq=False)
class Call:
    """What one caller asked for."""

    key: tuple[str, tuple[int, ...], int]  # model, source, steps: equal keys are equal work
    deadline: float | None
    future: Future[Output]

    @property
    def is_poisoned(self) -> bool:
        return bool(POISONS & set(self.key[1]))


class CountingObserver(NullObserver):
    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()

    def ended(self, model: str, outcome: Outcome, output: Output | None) -> None:
        self.outcomes[outcome] += 1


class RequestLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.runners = {model: FakeRunner() for model in MODELS}
        self.observer = CountingObserver()
        self.calls: list[Call] = []
        self.num_ends: Counter[Call] = Counter()
        self.is_draining = False
        logging.getLogger("model_core.isolation").disabled = True

    @initialize(slots=st.integers(1, 5), waiting=st.integers(1, 6), encode=st.integers(1, 8))
    def build(self, slots: int, waiting: int, encode: int) -> None:
        self.limits = EngineLimits(
            max_running_requests=slots, max_waiting_requests=waiting, max_encode_tokens=encode
        )
        self.engine = Engine(self.runners, self.limits, observer=self.observer, clock=self.clock)

    @rule(
        model=st.sampled_from(MODELS),
        source=st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3).map(tuple),
        num_steps=st.integers(1, 3),
        timeout_s=st.none() | st.integers(1, 5),
        poison=st.none() | st.sampled_from(sorted(POISONS)),
    )
    def submit(
        self,
        model: str,
        source: tuple[int, ...],
        num_steps: int,
        timeout_s: int | None,
        poison: int | None,
    ) -> None:
        source_ids = source if poison is None else (*source, poison)
        deadline = None if timeout_s is None else self.clock.now + timeout_s
        try:
            future = self.engine.submit(model, source_ids, parameters(num_steps), deadline=deadline)
        except QueueFullError:
            assert self.engine.stats(model).waiting == self.limits.max_waiting_requests
            return
        except EngineClosedError:
            assert self.is_draining
            return
        assert not self.is_draining
        call = Call((model, source_ids, num_steps), deadline, future)
        self.calls.append(call)
        future.add_done_callback(partial(self._count_end, call))

    @rule()
    def step(self) -> None:
        self.engine.step()
        work = Counter(call.key[0] for call in {call.key: call for call in self._open}.values())
        for model in MODELS:
            stats = self.engine.stats(model)
            assert stats.waiting + stats.running == work[model], "work nobody waits for, or lost"
        assert all(call.deadline is None or call.deadline > self.clock.now for call in self._open)

    @precondition(lambda self: self._open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self._open))
        assert call.future.cancel()

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @precondition(lambda self: not self.is_draining and self.calls)
    @rule()
    def drain(self) -> None:
        self.is_draining = True
        assert self.engine.drain(timeout=0) is (not self._open)

    @invariant()
    def slots_are_held_by_running_requests_only(self) -> None:
        for model, runner in self.runners.items():
            stats = self.engine.stats(model) if hasattr(self, "engine") else None
            assert stats is None or len(runner.slots) <= stats.running <= stats.slots_total

    @invariant()
    def ended_and_open_make_all(self) -> None:
        num_ended = sum(self.observer.outcomes.values())
        assert len(self._open) + num_ended == len(self.calls)
        assert all(times == 1 for times in self.num_ends.values())

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(1000):
            if not self.engine.step():
                break
        assert self.engine.drain(timeout=0), "some request never ends"
        assert set(self.num_ends) == set(self.calls)
        assert not any(runner.slots for runner in self.runners.values())
        for call in self.calls:
            self._check_end(call)

    @property
    def _open(self) -> list[Call]:
        return [call for call in self.calls if not call.future.done()]

    def _count_end(self, call: Call, _: Future[Output]) -> None:
        self.num_ends[call] += 1

    def _check_end(self, call: Call) -> None:
        if call.future.cancelled():
            return
        failure = call.future.exception()
        if failure is None:
            assert not call.is_poisoned
            assert call.future.result().best.token_ids == answer_to(call.key[1])
        elif isinstance(failure, RequestFailedError):
            assert call.is_poisoned, "a batch mate failed"
        else:
            assert isinstance(failure, DeadlineExceededError)
            assert call.deadline is not None


TestRequestLife = RequestLife.TestCase


@pytest.fixture(autouse=True)
def _restore_logging() -> object:
    yield
    logging.getLogger("model_core.isolation").disabled = False
