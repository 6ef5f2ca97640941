import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch

from model_core.engine import Engine
from model_core.errors import (
    DeadlineExceededError,
    DeviceLostError,
    EngineClosedError,
    InvalidParameterError,
    QueueFullError,
    RequestFailedError,
)
from model_core.observer import NullObserver, Outcome
from model_core.request import Output, Priority, Request
from model_core.runner import EncodeReport, StepReport
from model_core.scheduler import EngineLimits
from tests.model_core.fakes import (
    POISON_IN_ENCODER,
    POISON_IN_STEP,
    Clock,
    FakeRunner,
    answer_to,
    parameters,
)

TIMEOUT_S = 30.0  # only fails the test


class Recorder(NullObserver):
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.num_coalesced = 0
        self.queue_s: list[float] = []
        self.rows: list[int] = []
        self.encoded_tokens: list[int] = []

    def admitted(self, model: str, queue_s: float) -> None:
        self.queue_s.append(queue_s)

    def encoded(self, model: str, report: EncodeReport, seconds: float) -> None:
        self.encoded_tokens.append(report.source_tokens)

    def stepped(self, model: str, num_rows: int, seconds: float) -> None:
        self.rows.append(num_rows)

    def coalesced(self, model: str) -> None:
        self.num_coalesced += 1

    def ended(self, model: str, outcome: Outcome, output: Output | None) -> None:
        assert (output is not None) == (outcome == "finished")
        self.outcomes.append(outcome)


class Bench:
    """An engine over one fake runner, stepped by hand."""

    def __init__(self, runner: FakeRunner | None = None, **limits: int) -> None:
        self.runner = runner or FakeRunner()
        self.observer = Recorder()
        self.clock = Clock()
        self.engine = Engine(
            {"m": self.runner}, EngineLimits(**limits), observer=self.observer, clock=self.clock
        )

    def submit(
        self, *source_ids: int, num_steps: int = 3, timeout_s: float | None = None
    ) -> Future[Output]:
        deadline = None if timeout_s is None else self.clock.now + timeout_s
        return self.engine.submit("m", source_ids, parameters(num_steps), deadline=deadline)

    def run_until_idle(self, max_steps: int = 200) -> None:
        for _ in range(max_steps):
            if not self.engine.step():
                return
        raise AssertionError("the engine never became idle")

    @property
    def load(self) -> tuple[int, int]:
        stats = self.engine.stats("m")
        return stats.waiting, stats.running


def answer(future: Future[Output]) -> tuple[int, ...]:
    return future.result(timeout=0).best.token_ids


def error(future: Future[Output]) -> BaseException | None:
    return future.exception(timeout=0)


# Admission and delivery ---------------------------------------------------------------------------


def test_request_joins_at_the_next_step_and_leaves_in_the_step_that_finishes_it() -> None:
    bench = Bench()
    first = bench.submit(5, 6, num_steps=3)
    assert bench.load == (1, 0)
    bench.engine.step()
    second = bench.submit(7, num_steps=1)
    bench.engine.step()
    assert answer(second) == (7,)
    assert bench.load == (0, 1)
    bench.engine.step()
    assert answer(first) == (6, 5)
    assert bench.load == (0, 0)
    assert not bench.engine.step()


def test_observer_hears_queue_time_rows_tokens_and_outcome() -> None:
    bench = Bench(max_running_requests=1)
    bench.submit(5, 6, num_steps=2)
    bench.submit(7, num_steps=1)
    bench.clock.now += 4.0
    bench.run_until_idle()
    assert bench.observer.queue_s == [4.0, 4.0]
    assert bench.observer.rows == [1, 1, 1]
    assert bench.observer.encoded_tokens == [2, 1]
    assert bench.observer.outcomes == ["finished", "finished"]


def test_stats_tell_the_load_of_a_checkpoint() -> None:
    bench = Bench(FakeRunner(cost_bytes=10), max_running_requests=1)
    bench.submit(5, 6)
    bench.submit(7, 8, 9)
    bench.engine.step()
    stats = bench.engine.stats("m")
    assert (stats.waiting, stats.waiting_tokens) == (1, 3)
    assert (stats.running, stats.slots_total, stats.reserved_bytes) == (1, 1, 10)


def test_two_checkpoints_take_turns() -> None:
    turns: list[str] = []

    class Noting(FakeRunner):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def step(self) -> StepReport:
            turns.append(self.name)
            return super().step()

    engine = Engine({name: Noting(name) for name in ("a", "b")}, EngineLimits())
    for number in range(20):
        engine.submit("a", (5, number), parameters(num_steps=10))
    short = engine.submit("b", (5,), parameters(num_steps=3))
    for _ in range(3):
        engine.step()
    assert turns == ["a", "b"] * 3
    assert short.done()


def test_unknown_checkpoint_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidParameterError, match="expected one of m"):
        Bench().engine.submit("x", (5,), parameters())


def test_empty_source_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="source_ids"):
        Bench().submit()


def test_full_queue_refuses_and_keeps_what_waits() -> None:
    bench = Bench(max_waiting_requests=1)
    waiting = bench.submit(5)
    with pytest.raises(QueueFullError):
        bench.submit(6)
    bench.run_until_idle()
    assert answer(waiting) == (5,)
    assert bench.engine.drain(timeout=0)


def test_clients_take_turns_and_a_joined_bulk_request_goes_before_others() -> None:
    bench = Bench(max_running_requests=1)

    def submit(source: int, client: str, priority: Priority) -> Future[Output]:
        return bench.engine.submit("m", (source,), parameters(1), client=client, priority=priority)

    for source in range(4):
        submit(source, "many", "bulk")
    submit(9, "one", "bulk")
    submit(3, "hasty", "interactive")
    bench.run_until_idle()
    order = [requests[0].source_ids[0] for requests in bench.runner.admissions]
    assert order[0] == 3
    assert order.index(9) <= 2


# Coalescing ---------------------------------------------------------------------------------------


def test_identical_requests_share_one_slot_also_when_the_first_is_running() -> None:
    bench = Bench()
    first = bench.submit(5, 6)
    second = bench.submit(5, 6)
    bench.engine.step()
    third = bench.submit(5, 6)
    different = bench.submit(5, 6, num_steps=4)
    bench.run_until_idle()
    assert answer(first) == answer(second) == answer(third) == (6, 5)
    assert answer(different) == (6, 5)
    assert [len(requests) for requests in bench.runner.admissions] == [1, 1]
    assert bench.observer.num_coalesced == 2
    assert bench.observer.outcomes == ["finished"] * 4


@pytest.mark.parametrize(("seed", "num_coalesced"), [(7, 1), (8, 0)])
def test_drawn_requests_are_coalesced_where_their_seeds_are_equal(
    seed: int, num_coalesced: int
) -> None:
    bench = Bench()
    for each in (7, seed):
        bench.engine.submit("m", (5,), replace(parameters(), do_sample=True, seed=each))
    bench.engine.step()
    assert bench.observer.num_coalesced == num_coalesced


def test_identical_request_joins_even_when_the_queue_is_full() -> None:
    bench = Bench(max_waiting_requests=1)
    bench.submit(5)
    joined = bench.submit(5)
    bench.run_until_idle()
    assert answer(joined) == (5,)


def test_shared_work_ends_when_its_last_caller_leaves() -> None:
    bench = Bench()
    first, second = bench.submit(5), bench.submit(5)
    bench.engine.step()
    assert first.cancel()
    bench.engine.step()
    assert bench.load == (0, 1)
    assert second.cancel()
    bench.engine.step()
    assert bench.load == (0, 0)
    assert not bench.runner.slots


def test_callers_of_shared_work_keep_their_own_deadlines() -> None:
    bench = Bench()
    hasty = bench.submit(5, num_steps=3, timeout_s=1.0)
    patient = bench.submit(5, num_steps=3, timeout_s=9.0)
    bench.engine.step()
    bench.clock.now += 2.0
    bench.engine.step()
    assert isinstance(error(hasty), DeadlineExceededError)
    bench.run_until_idle()
    assert answer(patient) == (5,)


def test_finished_request_is_not_joined() -> None:
    bench = Bench()
    bench.submit(5)
    bench.run_until_idle()
    later = bench.submit(5)
    assert not later.done()
    bench.run_until_idle()
    assert answer(later) == (5,)


# Cancellation -------------------------------------------------------------------------------------


def test_cancelling_a_waiting_request_frees_its_place_at_once() -> None:
    bench = Bench(max_waiting_requests=1)
    bench.submit(5).cancel()
    assert bench.load == (0, 0)
    bench.submit(6)


def test_cancelling_a_running_request_frees_its_slot_within_one_step() -> None:
    bench = Bench(max_running_requests=1)
    running, next_one = bench.submit(5, num_steps=50), bench.submit(6, num_steps=1)
    bench.engine.step()
    running.cancel()
    bench.engine.step()
    assert answer(next_one) == (6,)
    assert not bench.runner.slots
    assert sorted(bench.observer.outcomes) == ["cancelled", "finished"]


def test_request_cancelled_in_the_step_that_finishes_it_leaves_nothing_behind() -> None:
    bench = Bench()
    future = bench.submit(5, num_steps=1)

    class Cancelling(FakeRunner):
        def step(self) -> StepReport:
            future.cancel()
            return super().step()

    bench.runner.__class__ = Cancelling
    bench.run_until_idle()
    assert future.cancelled()
    bench.submit(6)
    bench.run_until_idle()
    assert bench.load == (0, 0)
    assert bench.observer.outcomes == ["cancelled", "finished"]


def test_cancelling_an_asyncio_future_cancels_the_request() -> None:
    bench = Bench()

    async def hang_up() -> None:
        waiter = asyncio.wrap_future(bench.submit(5))
        bench.engine.step()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(hang_up())
    bench.engine.step()
    assert bench.load == (0, 0)
    assert bench.observer.outcomes == ["cancelled"]


def test_callbacks_of_a_future_may_call_the_engine_from_another_thread() -> None:
    bench = Bench()
    seen: list[int] = []

    def ask_from_elsewhere(_: Future[Output]) -> None:
        asking = threading.Thread(target=lambda: seen.append(bench.engine.stats("m").running))
        asking.start()
        asking.join(TIMEOUT_S)

    bench.submit(5).add_done_callback(ask_from_elsewhere)
    bench.run_until_idle()
    assert seen == [0]


# Deadlines ----------------------------------------------------------------------------------------


def test_expired_requests_end_whether_they_wait_or_run() -> None:
    bench = Bench(max_running_requests=1)
    running = bench.submit(5, num_steps=50, timeout_s=5.0)
    waiting = bench.submit(6, timeout_s=1.0)
    patient = bench.submit(7, num_steps=1)
    bench.engine.step()
    bench.clock.now += 2.0
    bench.engine.step()
    assert isinstance(error(waiting), DeadlineExceededError)
    assert not running.done()
    bench.clock.now += 5.0
    bench.engine.step()
    assert isinstance(error(running), DeadlineExceededError)
    assert answer(patient) == (7,)
    assert not bench.runner.slots
    assert bench.observer.outcomes == ["expired", "expired", "finished"]


def test_request_that_is_expired_when_it_comes_fails_at_once() -> None:
    bench = Bench()
    with pytest.raises(DeadlineExceededError):
        bench.submit(5, timeout_s=0.0)
    assert bench.load == (0, 0)


def test_caller_who_comes_between_deadline_and_step_takes_the_work_over() -> None:
    bench = Bench()
    expired = bench.submit(5, num_steps=3, timeout_s=1.0)
    bench.engine.step()
    bench.clock.now += 2.0
    late = bench.submit(5, num_steps=3)
    bench.run_until_idle()
    assert isinstance(error(expired), DeadlineExceededError)
    assert answer(late) == (5,)
    assert len(bench.runner.admissions) == 1


def test_request_with_too_little_time_left_ends_before_it_begins() -> None:
    bench = Bench(max_running_requests=1)
    bench.submit(1, num_steps=4)
    late = bench.submit(5, num_steps=4, timeout_s=11.0)
    patient = [bench.submit(source, num_steps=4) for source in (6, 7)]
    for _ in range(4):
        bench.engine.step()
        bench.clock.now += 2.5
    assert not late.done()
    bench.engine.step()
    assert isinstance(error(late), DeadlineExceededError)
    bench.run_until_idle()
    assert [answer(future) for future in patient] == [(6,), (7,)]
    assert bench.load == (0, 0)
    assert len(bench.runner.admissions) == 3, "the late one never began"


# Failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [POISON_IN_STEP, POISON_IN_ENCODER])
def test_only_the_request_at_fault_fails(poison: int, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    futures = [bench.submit(number, num_steps=number) for number in range(1, 6)]
    bench.engine.step()
    bad = bench.submit(poison, num_steps=2)
    bench.run_until_idle()
    assert [answer(future) for future in futures] == [(number,) for number in range(1, 6)]
    failure = error(bad)
    assert isinstance(failure, RequestFailedError)
    assert "poison" not in str(failure), "internals reach the client"
    assert failure.request_id in caplog.text
    assert "RuntimeError: poisoned" in caplog.text
    assert bench.load == (0, 0)


def test_several_poisoned_requests_are_all_found() -> None:
    bench = Bench()
    futures = {
        source: bench.submit(source[0], *source[1:], num_steps=2)
        for source in [(number, POISON_IN_STEP if number % 3 == 0 else 1) for number in range(12)]
    }
    bench.run_until_idle()
    for source, future in futures.items():
        if POISON_IN_STEP in source:
            assert isinstance(error(future), RequestFailedError)
        else:
            assert answer(future) == answer_to(source)


def test_lone_request_that_fails_is_not_tried_again() -> None:
    bench = Bench()
    bad = bench.submit(POISON_IN_STEP, num_steps=1)
    bench.engine.step()
    assert isinstance(error(bad), RequestFailedError)
    assert bench.runner.num_resets == 1


def test_nobody_joins_suspects_and_everybody_is_admitted_after_them() -> None:
    bench = Bench()
    for number in range(3):
        bench.submit(number, num_steps=2)
    bad = bench.submit(POISON_IN_STEP, num_steps=2)
    bench.engine.step()
    bench.engine.step()  # raises
    latecomer = bench.submit(9, num_steps=1)
    while not bad.done():
        assert bench.load[0] == 1
        bench.engine.step()
    bench.run_until_idle()
    assert answer(latecomer) == (9,)


def test_suspects_can_be_cancelled_and_expire() -> None:
    bench = Bench()
    bench.submit(POISON_IN_STEP, num_steps=2)
    cancelled = bench.submit(5, num_steps=2)
    expiring = bench.submit(6, num_steps=2, timeout_s=1.0)
    mate = bench.submit(7, num_steps=2)
    bench.engine.step()
    bench.engine.step()  # raises
    cancelled.cancel()
    bench.clock.now += 2.0
    bench.run_until_idle()
    assert answer(mate) == (7,)
    assert isinstance(error(expiring), DeadlineExceededError)
    assert sorted(bench.observer.outcomes) == ["cancelled", "expired", "failed", "finished"]


def test_batch_too_large_for_the_device_is_served_in_parts() -> None:
    class Small(FakeRunner):
        def step(self) -> StepReport:
            if len(self.slots) > 2:
                raise MemoryError
            return super().step()

    bench = Bench(Small())
    futures = [bench.submit(number) for number in range(7)]
    bench.run_until_idle()
    assert [answer(future) for future in futures] == [(number,) for number in range(7)]


@pytest.mark.parametrize(
    "error_of_the_allocator",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["python", "device", "host"],
)
@pytest.mark.parametrize("place", ["admit", "step"])
def test_a_lack_of_memory_makes_later_batches_smaller(
    error_of_the_allocator: Exception, place: str
) -> None:
    class Small(FakeRunner):
        def admit(self, requests: Sequence[Request]) -> EncodeReport:
            if place == "admit" and len(self.slots) + len(requests) > 4:
                raise error_of_the_allocator
            return super().admit(requests)

        def step(self) -> StepReport:
            if len(self.slots) > 4:
                raise error_of_the_allocator
            return super().step()

    bench = Bench(Small(), max_running_requests=8)
    futures = [bench.submit(number) for number in range(8)]
    bench.run_until_idle()
    assert bench.engine.stats("m").slots_total == 5, "half of eight, and one more after four ends"
    num_resets = bench.runner.num_resets
    futures += [bench.submit(10 + number, num_steps=2) for number in range(4)]
    bench.run_until_idle()
    assert bench.runner.num_resets == num_resets, "four are admitted without another failure"
    assert all(answer(future) for future in futures if future is not futures[0])


def test_a_request_that_lacks_memory_alone_makes_no_batch_smaller() -> None:
    class Small(FakeRunner):
        def step(self) -> StepReport:
            if any(request.source_ids == (7,) for request in self.slots):
                raise MemoryError
            return super().step()

    bench = Bench(Small(), max_running_requests=8)
    futures = [bench.submit(number) for number in range(7)]
    greedy = bench.submit(7)
    bench.run_until_idle()
    assert isinstance(error(greedy), RequestFailedError)
    assert [answer(future) for future in futures] == [(number,) for number in range(7)]
    assert bench.engine.stats("m").slots_total == 8


def test_other_failures_leave_the_size_of_batches_alone() -> None:
    bench = Bench(max_running_requests=8)
    for source in (5, 6, POISON_IN_STEP):
        bench.submit(source)
    bench.run_until_idle()
    assert bench.engine.stats("m").slots_total == 8


def test_runner_that_fails_to_remove_costs_nobody_their_answer() -> None:
    class Clumsy(FakeRunner):
        def remove(self, requests: Sequence[Request]) -> None:
            raise RuntimeError("stuck")

    bench = Bench(Clumsy())
    cancelled, mate = bench.submit(5), bench.submit(6)
    bench.engine.step()
    cancelled.cancel()
    bench.run_until_idle()
    assert answer(mate) == (6,)


# The thread ---------------------------------------------------------------------------------------


@pytest.fixture
def threaded() -> Iterator[Bench]:
    bench = Bench()
    bench.engine.start()
    yield bench
    bench.engine.close(TIMEOUT_S)
    assert not bench.engine.is_alive


class Gated(FakeRunner):
    """Steps only while its gate is open; says when it stands before it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.is_inside = threading.Event()

    def step(self) -> StepReport:
        self.is_inside.set()
        assert self.gate.wait(TIMEOUT_S)
        return super().step()


def test_thread_answers_requests_of_many_threads(threaded: Bench) -> None:
    answers: Counter[tuple[int, ...]] = Counter()

    def call(number: int) -> None:
        for part in range(20):
            future = threaded.submit(number, part, num_steps=1 + part % 4)
            answers[future.result(TIMEOUT_S).best.token_ids] += 1

    callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(TIMEOUT_S)
    assert answers == {(part, number): 1 for part in range(20) for number in range(8)}
    assert threaded.engine.drain(TIMEOUT_S)
    assert Counter(threaded.observer.outcomes) == {"finished": 160}


def test_drain_refuses_new_requests_and_finishes_the_old(threaded: Bench) -> None:
    future = threaded.submit(5, num_steps=50)
    assert threaded.engine.drain(TIMEOUT_S)
    assert future.done()
    assert threaded.engine.is_draining
    assert threaded.engine.is_alive
    with pytest.raises(EngineClosedError):
        threaded.submit(6)


def test_drain_gives_up_at_its_timeout() -> None:
    bench = Bench()
    bench.submit(5)
    assert not bench.engine.drain(timeout=0.01)


def test_close_ends_requests_in_flight_with_an_error() -> None:
    bench = Bench(runner := Gated())
    bench.engine.start()
    running = bench.submit(5, num_steps=50)
    assert runner.is_inside.wait(TIMEOUT_S)
    waiting = bench.submit(6)
    closing = threading.Thread(target=bench.engine.close)
    closing.start()
    runner.gate.set()
    closing.join(TIMEOUT_S)
    assert isinstance(error(running), EngineClosedError)
    assert isinstance(error(waiting), EngineClosedError)
    with pytest.raises(EngineClosedError):
        bench.submit(7)


def test_close_does_not_wait_for_ever_for_a_step_that_hangs() -> None:
    bench = Bench(runner := Gated())
    bench.engine.start()
    stuck = bench.submit(5)
    assert runner.is_inside.wait(TIMEOUT_S)
    bench.engine.close(timeout=0.01)
    assert isinstance(error(stuck), EngineClosedError)
    with pytest.raises(RuntimeError, match="still running"):
        bench.engine.start()
    runner.gate.set()
    bench.engine.close(TIMEOUT_S)


def test_closed_engine_can_be_started_again() -> None:
    bench = Bench()
    bench.submit(5, num_steps=50)
    bench.engine.step()
    bench.engine.close()
    bench.engine.start()
    assert bench.submit(5).result(TIMEOUT_S).best.token_ids == (5,)
    bench.engine.close(TIMEOUT_S)


def test_dying_loop_ends_every_request_and_can_be_started_again() -> None:
    class Mortal(Gated):
        is_mortal = True

        def reset(self) -> None:
            if self.is_mortal:
                raise RuntimeError("the device is gone")
            super().reset()

    bench = Bench(runner := Mortal())
    bench.engine.start()
    running = bench.submit(POISON_IN_STEP, num_steps=1)
    assert runner.is_inside.wait(TIMEOUT_S)
    waiting = bench.submit(5)
    runner.gate.set()
    for future in (running, waiting):
        assert isinstance(future.exception(TIMEOUT_S), EngineClosedError)
    settle(bench.engine)
    assert not bench.engine.is_alive
    with pytest.raises(EngineClosedError):
        bench.submit(6)
    runner.is_mortal = False
    bench.engine.close(TIMEOUT_S)  # waits for the dead loop's thread
    bench.engine.start()
    assert bench.submit(6).result(TIMEOUT_S).best.token_ids == (6,)
    bench.engine.close(TIMEOUT_S)


def settle(engine: Engine) -> None:
    """Wait until the loop's thread has either rebuilt the engine or given it up."""
    pause = threading.Event()
    for _ in range(int(1000 * TIMEOUT_S)):
        if engine.condition != "rebuilding":
            return
        pause.wait(0.001)  # gives the interpreter to that thread
    raise AssertionError("the engine is being rebuilt for ever")


class Mortal(FakeRunner):
    """Lets the loop die: it says that a request has ended that the engine never knew."""

    num_deaths = 1

    def step(self) -> StepReport:
        if self.num_deaths:
            self.num_deaths -= 1
            stranger = Request("stranger", (1,), parameters())
            return StepReport((), 1, failed=(stranger,))
        return super().step()


def test_a_loop_that_dies_is_rebuilt_and_ends_what_it_held(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(Mortal())
    held = bench.submit(5)
    bench.engine.start()
    assert isinstance(held.exception(TIMEOUT_S), EngineClosedError)
    settle(bench.engine)
    assert bench.engine.condition == "ready"
    assert bench.submit(6).result(TIMEOUT_S).best.token_ids == (6,)
    assert bench.runner.num_resets == 1
    assert "the engine's loop died" in caplog.text
    bench.engine.close(TIMEOUT_S)
    assert bench.observer.outcomes == ["failed", "finished"]


def test_an_engine_that_is_being_rebuilt_takes_nothing_and_says_so() -> None:
    class SlowToReset(Mortal):
        def __init__(self) -> None:
            super().__init__()
            self.is_resetting, self.may_go_on = threading.Event(), threading.Event()

        def reset(self) -> None:
            self.is_resetting.set()
            assert self.may_go_on.wait(TIMEOUT_S)
            super().reset()

    bench = Bench(runner := SlowToReset())
    bench.submit(5)
    bench.engine.start()
    assert runner.is_resetting.wait(TIMEOUT_S)
    with pytest.raises(EngineClosedError, match="rebuilt"):
        bench.submit(6)
    assert bench.engine.condition == "rebuilding"
    runner.may_go_on.set()
    bench.engine.close(TIMEOUT_S)
    assert not bench.engine.is_alive


def test_a_loop_that_dies_again_and_again_stays_dead() -> None:
    bench = Bench(runner := Mortal())
    runner.num_deaths = 100
    bench.engine.start()
    for number in range(4):
        future = bench.submit(number)
        assert isinstance(future.exception(TIMEOUT_S), EngineClosedError)
        settle(bench.engine)
    assert bench.engine.condition == "dead"
    with pytest.raises(EngineClosedError):
        bench.submit(5)


def test_a_loop_that_dies_now_and_then_is_rebuilt_each_time() -> None:
    bench = Bench(runner := Mortal())
    runner.num_deaths = 10
    bench.engine.start()
    for number in range(10):
        bench.clock.now += 30.0
        future = bench.submit(number)
        assert isinstance(future.exception(TIMEOUT_S), EngineClosedError)
        settle(bench.engine)
    assert bench.submit(5).result(TIMEOUT_S).best.token_ids == (5,)
    bench.engine.close(TIMEOUT_S)


@pytest.mark.parametrize("place", ["admit", "step"])
def test_a_lost_device_ends_everything_and_is_told_from_a_dead_loop(place: str) -> None:
    class Lost(FakeRunner):
        def admit(self, requests: Sequence[Request]) -> EncodeReport:
            if place == "admit":
                raise DeviceLostError("an illegal memory access")
            return super().admit(requests)

        def step(self) -> StepReport:
            raise DeviceLostError("an illegal memory access")

    bench = Bench(Lost())
    futures = [bench.submit(number) for number in range(3)]
    bench.engine.start()
    for future in futures:
        assert isinstance(future.exception(TIMEOUT_S), EngineClosedError)
    bench.engine.close(TIMEOUT_S)
    assert bench.engine.condition == "lost"
    assert bench.runner.num_resets == 0, "nothing more is asked of the device"


def test_a_turn_that_takes_long_can_be_seen() -> None:
    bench = Bench(runner := Gated())
    assert bench.engine.turn_s == 0.0
    bench.engine.start()
    bench.submit(5, num_steps=1)
    assert runner.is_inside.wait(TIMEOUT_S)
    bench.clock.now += 90.0
    assert bench.engine.turn_s == 90.0
    runner.gate.set()
    bench.engine.close(TIMEOUT_S)
    assert bench.engine.turn_s == 0.0


def test_idle_engine_closes_at_once(threaded: Bench) -> None:
    threaded.engine.close(TIMEOUT_S)
    assert not threaded.engine.is_alive


def test_request_that_is_cancelled_during_a_long_step_is_seen_by_its_runner() -> None:
    seen: list[Callable[[float], bool]] = []

    class Watching(Gated):
        def admit(self, requests: Sequence[Request]) -> EncodeReport:
            seen.extend(request.is_abandoned for request in requests)
            return super().admit(requests)

    bench = Bench(runner := Watching())
    bench.engine.start()
    future = bench.submit(5, timeout_s=7.0)
    assert runner.is_inside.wait(TIMEOUT_S)
    (is_abandoned,) = seen
    assert not is_abandoned(bench.clock.now)
    assert is_abandoned(bench.clock.now + 7.0), "the deadline"
    patient = bench.submit(5, timeout_s=9.0)
    assert not is_abandoned(bench.clock.now + 7.0), "somebody waits for longer"
    patient.cancel()
    assert is_abandoned(bench.clock.now + 7.0)
    future.cancel()
    assert is_abandoned(bench.clock.now)
    runner.gate.set()
    bench.engine.close(TIMEOUT_S)
