from collections import deque

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model_core.errors import InvalidRequestError, QueueFullError, RequestTooLargeError
from model_core.request import Request
from model_core.scheduler import EngineLimits, Scheduler
from tests.model_core.fakes import parameters


def request_of(source_len: int) -> Request:
    return Request("req", (5,) * source_len, parameters())


def scheduler_with(**limits: int) -> Scheduler:
    return Scheduler(EngineLimits(**limits))


def enqueue(scheduler: Scheduler, source_len: int = 1, cost_bytes: int = 0) -> Request:
    request = request_of(source_len)
    scheduler.enqueue(request, cost_bytes, now=0.0)
    return request


def test_admission_stops_at_the_last_free_slot() -> None:
    scheduler = scheduler_with(max_running_requests=2)
    first, second, third = (enqueue(scheduler) for _ in range(3))
    assert scheduler.admit(0.0) == (first, second)
    assert scheduler.admit(0.0) == ()
    scheduler.finish(first, now=1.0)
    assert scheduler.admit(0.0) == (third,)


def test_small_request_does_not_overtake_a_large_head_of_the_queue() -> None:
    scheduler = scheduler_with(max_cache_bytes=10)
    running = enqueue(scheduler, cost_bytes=6)
    assert scheduler.admit(0.0) == (running,)
    large, small = enqueue(scheduler, cost_bytes=5), enqueue(scheduler, cost_bytes=1)
    assert scheduler.admit(0.0) == ()
    scheduler.finish(running, now=1.0)
    assert scheduler.admit(0.0) == (large, small)


def test_over_long_source_joins_alone() -> None:
    scheduler = scheduler_with(max_encode_tokens=10)
    short, long, last = (enqueue(scheduler, length) for length in (3, 50, 3))
    assert scheduler.admit(0.0) == (short,)
    assert scheduler.admit(0.0) == (long,)
    assert scheduler.admit(0.0) == (last,)


def test_request_that_can_never_fit_is_refused_with_both_sizes() -> None:
    scheduler = scheduler_with(max_cache_bytes=10)
    with pytest.raises(RequestTooLargeError, match=r"needs 11 bytes.*limit is 10") as refused:
        enqueue(scheduler, cost_bytes=11)
    assert isinstance(refused.value, InvalidRequestError)
    assert scheduler.is_idle


def test_full_queue_refuses_by_number_of_requests() -> None:
    scheduler = scheduler_with(max_waiting_requests=2)
    enqueue(scheduler)
    enqueue(scheduler)
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        enqueue(scheduler)
    assert scheduler.num_waiting == 2


def test_full_queue_refuses_by_source_tokens_unless_it_is_empty() -> None:
    scheduler = scheduler_with(max_waiting_tokens=10)
    enqueue(scheduler, source_len=30)
    with pytest.raises(QueueFullError, match="30 source tokens are waiting"):
        enqueue(scheduler, source_len=1)


def test_retry_after_is_the_time_that_the_queue_needs_at_the_measured_rate() -> None:
    scheduler = scheduler_with(max_running_requests=4, max_waiting_requests=6)
    for _ in range(4):
        enqueue(scheduler)
    running = scheduler.admit(0.0)
    for number, request in enumerate(running[:3], start=1):
        scheduler.finish(request, 2.0 * number, num_steps=3)  # one in two seconds
    for _ in range(6):
        enqueue(scheduler)
    with pytest.raises(QueueFullError) as refused:
        scheduler.enqueue(request_of(1), 0, now=6.0)
    assert refused.value.retry_after_s == pytest.approx(12.0)


def test_retry_after_has_bounds_before_anything_was_measured() -> None:
    scheduler = scheduler_with(max_waiting_requests=1)
    enqueue(scheduler)
    for now, expected in ((0.0, 1.0), (1e6, 60.0)):
        with pytest.raises(QueueFullError) as refused:
            scheduler.enqueue(request_of(1), 0, now=now)
        assert refused.value.retry_after_s == expected


def test_idle_time_does_not_count_as_slowness() -> None:
    scheduler = scheduler_with(max_waiting_requests=2)
    scheduler.finish(admitted(scheduler, now=0.0), 1.0, num_steps=3)
    first = admitted(scheduler, now=1000.0)
    scheduler.finish(first, 1002.0, num_steps=3)
    for _ in range(2):
        scheduler.enqueue(request_of(1), 0, now=1002.0)
    with pytest.raises(QueueFullError) as refused:
        scheduler.enqueue(request_of(1), 0, now=1002.0)
    assert refused.value.retry_after_s < 5.0


def admitted(scheduler: Scheduler, now: float) -> Request:
    request = request_of(1)
    scheduler.enqueue(request, 0, now)
    assert scheduler.admit(0.0) == (request,)
    return request


def test_limit_below_one_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="max_running_requests is 0"):
        EngineLimits(max_running_requests=0)


class SchedulerMachine(RuleBasedStateMachine):
    """Against two plain lists: nothing lost, nothing held twice, budgets kept, first come first."""

    @initialize(
        slots=st.integers(1, 4),
        cache=st.none() | st.integers(10, 20),
        encode=st.integers(1, 12),
        waiting=st.integers(1, 6),
        tokens=st.integers(1, 30),
    )
    def build(self, slots: int, cache: int | None, encode: int, waiting: int, tokens: int) -> None:
        self.limits = EngineLimits(
            max_running_requests=slots,
            max_cache_bytes=cache,
            max_encode_tokens=encode,
            max_waiting_requests=waiting,
            max_waiting_tokens=tokens,
        )
        self.scheduler = Scheduler(self.limits)
        self.costs: dict[Request, int] = {}
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.num_ended = 0
        self.num_accepted = 0
        self.now = 0.0

    @rule(source_len=st.integers(1, 10), cost_bytes=st.integers(0, 10))
    def enqueue(self, source_len: int, cost_bytes: int) -> None:
        request = request_of(source_len)
        self.now += 1.0
        try:
            self.scheduler.enqueue(request, cost_bytes, self.now)
        except QueueFullError:
            assert self.waiting, "an empty queue was full"
            return
        self.costs[request] = cost_bytes
        self.waiting.append(request)
        self.num_accepted += 1

    @rule()
    def admit(self) -> None:
        admitted = self.scheduler.admit(self.now)
        assert admitted or not self.waiting or self.running, "an idle scheduler admits nobody"
        for request in admitted:
            assert request is self.waiting.popleft(), "the head of the queue was overtaken"
        self.running.extend(admitted)
        tokens = sum(request.source_len for request in admitted)
        assert len(admitted) <= 1 or tokens <= self.limits.max_encode_tokens

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.running))
        self.running.remove(request)
        self.scheduler.finish(request, self.now)
        self.num_ended += 1

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([*self.running, *self.waiting]))
        (self.running if request in self.running else self.waiting).remove(request)
        self.scheduler.remove(request)
        self.num_ended += 1

    @invariant()
    def counts_agree(self) -> None:
        assert self.scheduler.num_waiting == len(self.waiting)
        assert self.scheduler.num_running == len(self.running)
        assert self.scheduler.waiting_tokens == sum(each.source_len for each in self.waiting)
        assert self.scheduler.reserved_bytes == sum(self.costs[each] for each in self.running)
        assert len(self.waiting) + len(self.running) + self.num_ended == self.num_accepted
        assert self.scheduler.is_idle is not bool(self.waiting or self.running)

    @invariant()
    def budgets_are_kept(self) -> None:
        limits = self.limits
        assert self.scheduler.num_running <= limits.max_running_requests
        assert self.scheduler.num_waiting <= limits.max_waiting_requests
        assert (
            self.scheduler.num_waiting <= 1
            or self.scheduler.waiting_tokens <= limits.max_waiting_tokens
        )
        assert limits.max_cache_bytes is None or (
            self.scheduler.reserved_bytes <= limits.max_cache_bytes
        )


TestSchedulerMachine = SchedulerMachine.TestCase
