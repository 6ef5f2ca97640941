import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model_core.errors import (
    DeadlineUnreachableError,
    InvalidRequestError,
    QueueFullError,
    RequestTooLargeError,
)
from model_core.pace import ExpectedSteps
from model_core.request import Priority, Prospect, Request
from model_core.scheduler import EngineLimits, Scheduler
from tests.model_core.fakes import parameters


def request_of(
    source_len: int, client: str = "", priority: Priority = "interactive", num_steps: int = 3
) -> Request:
    return Request(
        "req", (5,) * source_len, parameters(num_steps), client=client, priority=priority
    )


def scheduler_with(**limits: int) -> Scheduler:
    return Scheduler(EngineLimits(**limits))


def enqueue(
    scheduler: Scheduler,
    source_len: int = 1,
    cost_bytes: int = 0,
    *,
    client: str = "",
    priority: Priority = "interactive",
    now: float = 0.0,
) -> Request:
    request = request_of(source_len, client, priority)
    scheduler.enqueue(request, cost_bytes, now)
    return request


def test_admission_stops_at_the_last_free_slot() -> None:
    scheduler = scheduler_with(max_running_requests=2)
    first, second, third = (enqueue(scheduler) for _ in range(3))
    assert scheduler.admit(0.0) == (first, second)
    assert scheduler.admit(0.0) == ()
    scheduler.finish(first, now=1.0)
    assert scheduler.admit(0.0) == (third,)


def test_others_are_encoded_for_the_next_slots_where_that_is_allowed() -> None:
    scheduler = scheduler_with(max_running_requests=2, max_admitted_requests=3)
    requests = [enqueue(scheduler) for _ in range(5)]
    assert scheduler.admit(0.0) == tuple(requests[:3])
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 3)
    scheduler.finish(requests[0], now=1.0)
    assert scheduler.admit(1.0) == (requests[3],)
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 2)


def test_nobody_is_encoded_for_slots_that_memory_lacks() -> None:
    scheduler = scheduler_with(max_running_requests=4, max_admitted_requests=6)
    requests = [enqueue(scheduler) for _ in range(8)]
    assert scheduler.admit(0.0) == tuple(requests[:6])
    scheduler.shrink(4)
    for number, request in enumerate(requests[:4]):
        scheduler.remove(request)
        assert scheduler.admit(1.0) == (), number
    scheduler.remove(requests[4])
    assert scheduler.admit(1.0) == (requests[6],)


def test_requests_that_wait_encoded_make_no_step_slower() -> None:
    paces = []
    for most in (2, 3):
        scheduler = scheduler_with(max_running_requests=2, max_admitted_requests=most)
        for _ in range(3):
            enqueue(scheduler)
        scheduler.admit(0.0)
        for second in range(1, 4):
            scheduler.stepped(float(second), row_steps=2)
        paces.append(scheduler._pace.seconds_for_steps(1))
    assert paces == [1.0, 1.0]


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


def test_requests_wait_for_company_but_not_where_nobody_runs_nor_once_there_is_room_for_many() -> (
    None
):
    scheduler = scheduler_with(
        max_running_requests=6, steps_between_admissions=3, max_encode_tokens=10
    )
    first = enqueue(scheduler)
    assert scheduler.admit(0.0) == (first,)
    second = enqueue(scheduler)
    for now in (1.0, 2.0):
        assert scheduler.admit(now) == ()
        scheduler.stepped(now, row_steps=1)
    third = enqueue(scheduler)
    assert scheduler.admit(3.0) == (second, third)
    fourth, fifth = enqueue(scheduler, source_len=5), enqueue(scheduler, source_len=5)
    assert scheduler.admit(3.0) == (fourth, fifth)


def test_many_that_wait_for_a_slot_do_not_join_one_by_one() -> None:
    scheduler = scheduler_with(
        max_running_requests=4, steps_between_admissions=3, max_encode_tokens=10
    )
    first = [enqueue(scheduler, source_len=2) for _ in range(20)][:4]
    assert list(scheduler.admit(0.0)) == first
    scheduler.finish(first[0], now=1.0)
    assert scheduler.admit(1.0) == ()
    scheduler.stepped(1.0, row_steps=4)
    scheduler.finish(first[1], now=2.0)
    assert scheduler.admit(2.0) == ()
    scheduler.stepped(2.0, row_steps=4)
    assert len(scheduler.admit(3.0)) == 2


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
    scheduler = scheduler_with(max_running_requests=3, max_waiting_requests=6)
    for _ in range(3):
        enqueue(scheduler)
    running = scheduler.admit(0.0)
    for _ in range(6):
        enqueue(scheduler)
    for number, request in enumerate(running, start=1):
        scheduler.finish(request, 2.0 * number, num_steps=3)  # one in two seconds
    with pytest.raises(QueueFullError) as refused:
        scheduler.enqueue(request_of(1), 0, now=6.0)
    assert refused.value.retry_after_s == pytest.approx(12.0)


def test_a_pace_without_anybody_waiting_is_no_measure_of_what_can_be_done() -> None:
    scheduler = scheduler_with(max_running_requests=8)
    for number in range(20):
        scheduler.finish(admitted(scheduler, 10.0 * number), 10.0 * number + 5.0, num_steps=3)
    for _ in range(7):
        scheduler.enqueue(with_deadline(1006.0, client=""), 0, 1000.0)
    assert len(scheduler.admit(1000.0)) == 7


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
    assert scheduler.admit(now) == (request,)
    return request


def test_limit_below_one_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="max_running_requests is 0"):
        EngineLimits(max_running_requests=0)


# Fairness -----------------------------------------------------------------------------------------


def order_of(scheduler: Scheduler, num_requests: int) -> list[Request]:
    """The order in which so many requests get the only slot."""
    order: list[Request] = []
    for _ in range(num_requests):
        (request,) = scheduler.admit(0.0)
        scheduler.finish(request, 0.0)
        order.append(request)
    return order


def test_a_client_with_many_requests_does_not_hold_up_another_with_one() -> None:
    scheduler = scheduler_with(max_running_requests=1)
    flood = [enqueue(scheduler, client="many") for _ in range(20)]
    single = enqueue(scheduler, client="one")
    order = order_of(scheduler, 21)
    assert order.index(single) <= 1
    assert [each for each in order if each is not single] == flood


def test_costly_requests_count_for_more_than_cheap_ones() -> None:
    scheduler = scheduler_with(max_running_requests=1)
    for _ in range(6):
        scheduler.enqueue(request_of(1, "costly", num_steps=30), 0, 0.0)
        scheduler.enqueue(request_of(1, "cheap", num_steps=10), 0, 0.0)
    first = [each.client for each in order_of(scheduler, 8)]
    assert (first.count("cheap"), first.count("costly")) == (6, 2)


def test_interactive_requests_go_first_and_bulk_ones_keep_a_share() -> None:
    scheduler = scheduler_with(max_running_requests=1)
    for _ in range(20):
        enqueue(scheduler, priority="bulk")
    for _ in range(40):
        enqueue(scheduler, priority="interactive")
    order = [each.priority for each in order_of(scheduler, 60)]
    assert order[0] == "interactive"
    assert order[:36].count("bulk") == 4, "one part in nine"


def test_a_bulk_request_that_somebody_wants_at_once_is_promoted() -> None:
    scheduler = scheduler_with(max_running_requests=1)
    bulk = [enqueue(scheduler, priority="bulk") for _ in range(5)]
    scheduler.promote(bulk[4])
    assert order_of(scheduler, 5) == [bulk[4], *bulk[:4]]


def test_the_last_quarter_of_the_queue_is_kept_for_clients_below_their_share() -> None:
    scheduler = scheduler_with(max_waiting_requests=8)
    for _ in range(6):
        enqueue(scheduler, client="many")
    with pytest.raises(QueueFullError):
        enqueue(scheduler, client="many")
    enqueue(scheduler, client="one")
    enqueue(scheduler, client="other")
    with pytest.raises(QueueFullError):
        enqueue(scheduler, client="third")


def test_the_last_quarter_of_the_tokens_is_kept_as_well() -> None:
    scheduler = scheduler_with(max_waiting_tokens=80)
    enqueue(scheduler, source_len=60, client="many")
    with pytest.raises(QueueFullError, match="source tokens"):
        enqueue(scheduler, source_len=10, client="many")
    enqueue(scheduler, source_len=10, client="one")


# Deadlines ----------------------------------------------------------------------------------------


def busy_scheduler(seconds_each: float) -> Scheduler:
    """One slot, measured: a request at a time ends, after so many seconds each; ten wait."""
    scheduler = scheduler_with(max_running_requests=1)
    for _ in range(15):
        enqueue(scheduler, client="many")
    for number in range(5):
        (request,) = scheduler.admit(began := seconds_each * number)
        for step in range(3):
            scheduler.stepped(began + seconds_each * (step + 1) / 3, 1)
        scheduler.finish(request, began + seconds_each, num_steps=3)
    scheduler.admit(5 * seconds_each)
    return scheduler


def with_deadline(deadline: float, client: str = "many") -> Request:
    request = request_of(1, client)
    request.deadline = deadline
    return request


def test_a_request_that_would_be_waited_for_in_vain_is_refused_at_once() -> None:
    # Nine wait, two seconds each, and so has itself; a quarter more.
    scheduler = busy_scheduler(2.0)
    with pytest.raises(DeadlineUnreachableError, match=r"after 25\.0 seconds") as refused:
        scheduler.enqueue(with_deadline(10.0 + 23.5), 0, 10.0)
    assert refused.value.retry_after_s == pytest.approx(1.5)
    scheduler.enqueue(with_deadline(10.0 + 25.5), 0, 10.0)


def test_a_light_client_is_not_refused_for_what_a_heavy_one_has_in_the_queue() -> None:
    scheduler = busy_scheduler(2.0)
    for _ in range(300):
        enqueue(scheduler, client="many", now=10.0)
    with pytest.raises(DeadlineUnreachableError):
        scheduler.enqueue(with_deadline(10.0 + 5.0, client="many"), 0, 10.0)
    scheduler.enqueue(with_deadline(10.0 + 5.0, client="one"), 0, 10.0)  # one goes before it


def test_a_newcomer_among_many_clients_is_refused_for_what_all_of_them_have_in_the_queue() -> None:
    scheduler = busy_scheduler(2.0)
    for number in range(50):
        enqueue(scheduler, client=f"client {number}", now=10.0)
    with pytest.raises(DeadlineUnreachableError, match=r"after 130\.0 seconds"):
        scheduler.enqueue(with_deadline(10.0 + 125.0, client="one more"), 0, 10.0)
    scheduler.enqueue(with_deadline(10.0 + 131.0, client="one more"), 0, 10.0)


def test_a_request_that_finds_nobody_waiting_is_tried_whatever_was_measured() -> None:
    scheduler = scheduler_with(max_running_requests=1)
    scheduler.finish(admitted(scheduler, now=0.0), 1000.0, num_steps=3)
    scheduler.enqueue(with_deadline(1000.1), 0, 1000.0)


def test_nothing_is_refused_for_its_deadline_before_anything_was_measured() -> None:
    scheduler = scheduler_with(max_running_requests=1)
    for _ in range(20):
        enqueue(scheduler)
    scheduler.enqueue(with_deadline(0.1), 0, 0.0)


def test_the_pace_before_an_idle_spell_holds_until_there_is_another() -> None:
    scheduler = busy_scheduler(2.0)
    for _ in range(10):
        (running,) = scheduler._running
        scheduler.finish(running, 12.0, num_steps=3)
        scheduler.admit(12.0)
    assert scheduler.is_idle
    for _ in range(10):
        enqueue(scheduler, now=1000.0)
    with pytest.raises(DeadlineUnreachableError):
        scheduler.enqueue(with_deadline(1000.5, client=""), 0, 1000.0)


def test_the_first_end_after_an_idle_spell_does_not_overturn_what_was_measured() -> None:
    scheduler = busy_scheduler(2.0)
    for _ in range(10):
        (running,) = scheduler._running
        scheduler.finish(running, 12.0, num_steps=3)
        scheduler.admit(12.0)
    for _ in range(11):
        enqueue(scheduler, client="many", now=1000.0)
    (running,) = scheduler.admit(1000.0)
    scheduler.finish(running, 1030.0, num_steps=3)  # slow to begin with
    scheduler.enqueue(with_deadline(1030.0 + 25.0), 0, 1030.0)  # ten wait, two seconds each


def test_a_request_with_too_little_time_left_is_given_up_before_it_begins() -> None:
    scheduler = busy_scheduler(2.0)
    late, patient = with_deadline(10.0 + 21.0, "late"), with_deadline(100.0, "patient")
    for request in (late, patient):
        scheduler.enqueue(request, 0, 10.0)
    (running,) = scheduler._running
    scheduler.finish(running, 30.0, num_steps=3)
    admitted_clients = []
    for _ in range(3):
        (request,) = scheduler.admit(30.0)
        admitted_clients.append(request.client)
        scheduler.finish(request, 30.0)
    assert scheduler.pop_given_up() == (late,)
    assert scheduler.pop_given_up() == ()
    assert "patient" in admitted_clients


def test_steps_of_which_no_request_sees_the_end_count_as_slow() -> None:
    scheduler = busy_scheduler(2.0)
    now = 10.0
    for _ in range(40):
        (running,) = scheduler._running
        scheduler.stepped(now := now + 10.0, 1)
        scheduler.remove(running)
        enqueue(scheduler, client="many", now=now)
        scheduler.admit(now)
    with pytest.raises(DeadlineUnreachableError):
        scheduler.enqueue(with_deadline(now + 25.0, client="one"), 0, now)


def test_a_stall_counts_once_however_many_requests_leave_in_it() -> None:
    scheduler = scheduler_with(max_running_requests=16)
    for _ in range(40):
        enqueue(scheduler)
    running = scheduler.admit(0.0)
    now = 0.0
    for _ in range(100):
        scheduler.stepped(now := now + 0.1, 16)
    for request in running[:2]:
        scheduler.finish(request, now, num_steps=3)
    scheduler.stepped(now := now + 32.0, 14)
    for request in running[2:]:
        scheduler.remove(request)
    # One of the last 32 steps was so long, that is a second more for each: for three of them.
    assert scheduler._pace.seconds_for_steps(3.0) == pytest.approx(3.3, abs=0.05)
    scheduler.admit(now)
    for _ in range(32):
        scheduler.stepped(now := now + 0.1, 16)
    assert scheduler._pace.seconds_for_steps(3.0) == pytest.approx(0.3)


def test_before_a_request_has_ended_none_is_given_up_for_its_steps() -> None:
    scheduler = scheduler_with(max_running_requests=1)
    running, *waiting = (request_of(1, num_steps=1000) for _ in range(3))
    for request in (running, *waiting):
        request.deadline = 100.0
        scheduler.enqueue(request, 0, 0.0)
    scheduler.admit(0.0)
    scheduler.stepped(1.0, 1)
    scheduler.admit(1.0)
    assert scheduler.pop_given_up() == ()
    scheduler.finish(running, 2.0, num_steps=200)
    scheduler.admit(2.0)
    assert scheduler.pop_given_up() == (waiting[0],)


def test_requests_that_are_run_in_turns_come_forward_by_as_much_less() -> None:
    scheduler = scheduler_with(max_running_requests=4)
    for _ in range(4):
        enqueue(scheduler)
    scheduler.admit(0.0)
    for number in range(1, 9):
        scheduler.stepped(float(number), 2)  # half of them
    assert scheduler._pace.seconds_for_steps(3.0) == pytest.approx(6.0)


def test_the_last_who_waits_is_tried_however_little_time_is_left() -> None:
    scheduler = scheduler_with(max_running_requests=1)
    scheduler.finish(admitted(scheduler, now=0.0), 1000.0, num_steps=3)
    request = with_deadline(1000.1)
    scheduler.enqueue(request, 0, 1000.0)
    assert scheduler.admit(1000.0) == (request,)


def test_steps_are_expected_as_they_were_for_sources_of_that_size() -> None:
    expected = ExpectedSteps()
    unknown = request_of(4, num_steps=50)
    assert expected.of(unknown) == 50
    for _ in range(100):
        expected.record(request_of(4), 10)
        expected.record(request_of(200), 40)
    assert expected.of(unknown) == pytest.approx(10)
    assert expected.of(request_of(150, num_steps=50)) == pytest.approx(40)
    assert expected.of(request_of(150, num_steps=20)) == 20, "within what the request allows"


# Memory -------------------------------------------------------------------------------------------


def test_a_lack_of_memory_halves_what_runs_and_ended_requests_widen_it_again() -> None:
    scheduler = scheduler_with(max_running_requests=8)
    for _ in range(30):
        enqueue(scheduler)
    running = list(scheduler.admit(0.0))
    scheduler.shrink(len(running))
    assert scheduler.num_slots == 4
    for request in running:
        scheduler.finish(request, 0.0)
    assert scheduler.num_slots == 5, "four had to end for the fifth slot; then five more"
    assert len(scheduler.admit(0.0)) == 5


def test_one_request_is_always_admitted() -> None:
    scheduler = scheduler_with(max_running_requests=8)
    scheduler.shrink(1)
    enqueue(scheduler)
    assert len(scheduler.admit(0.0)) == 1


class SchedulerMachine(RuleBasedStateMachine):
    """Against plain lists: nothing lost, nothing held twice, budgets kept, nobody overtaken by one
    of its own client and class, and nobody passed over for ever.
    """

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
        self.waiting: list[Request] = []
        self.passed_over: Counter[Request] = Counter()
        self.running: list[Request] = []
        self.num_ended = 0
        self.num_accepted = 0
        self.now = 0.0

    @rule(
        source_len=st.integers(1, 10),
        cost_bytes=st.integers(0, 10),
        client=st.sampled_from(["", "a", "b", "c"]),
        priority=st.sampled_from(["interactive", "bulk"]),
        num_steps=st.integers(1, 5),
    )
    def enqueue(
        self, source_len: int, cost_bytes: int, client: str, priority: Priority, num_steps: int
    ) -> None:
        request = request_of(source_len, client, priority, num_steps)
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
            line = [each for each in self.waiting if self._line(each) == self._line(request)]
            assert request is line[0], "overtaken in its own line"
            self.waiting.remove(request)
            self.passed_over.update(self.waiting)
        self.running.extend(admitted)
        tokens = sum(request.source_len for request in admitted)
        assert len(admitted) <= 1 or tokens <= self.limits.max_encode_tokens

    @staticmethod
    def _line(request: Request) -> tuple[str, str]:
        return request.client, request.priority

    @rule()
    def promote(self) -> None:
        bulk = [each for each in self.waiting if each.priority == "bulk"]
        if bulk:
            self.scheduler.promote(bulk[0])
            self.waiting.remove(bulk[0])
            self.waiting.append(bulk[0])

    @rule(num_requests=st.integers(1, 4))
    def shrink(self, num_requests: int) -> None:
        self.scheduler.shrink(num_requests)
        assert 1 <= self.scheduler.num_slots <= self.limits.max_running_requests

    @invariant()
    def nobody_is_passed_over_for_ever(self) -> None:
        if hasattr(self, "limits"):
            most = 100 * self.limits.max_waiting_requests  # steps and shares are few, all told
            assert all(self.passed_over[each] <= most for each in self.waiting)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.running))
        self.running.remove(request)
        self.scheduler.finish(request, self.now, data.draw(st.none() | st.integers(1, 5)))
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


def test_a_request_is_expected_to_take_the_steps_of_its_size_and_of_any_size_the_fewest() -> None:
    expected = ExpectedSteps()

    def steps(most: int, source_len: int | None = None) -> float:
        prospect = Prospect(deadline=math.inf, max_steps=most, source_len=source_len)
        return expected.of_prospect(prospect)

    assert steps(50) == steps(50, 200) == 1.0
    for source_len, num_steps in ((4, 10), (200, 40)):
        expected.record(request_of(source_len, num_steps=50), num_steps)
    assert (steps(50), steps(5), steps(0)) == (10.0, 5.0, 1.0)
    assert (steps(50, 4), steps(50, 200), steps(30, 200), steps(0, 200)) == (10.0, 40.0, 30.0, 1.0)
    for size in (1, 4, 30, 200, 4000):
        assert steps(50) <= steps(50, size) == expected.of(request_of(size, num_steps=50))


def test_what_would_be_refused_for_its_steps_is_refused_before_they_are_known() -> None:
    scheduler = busy_scheduler(2.0)  # nine wait: 22.5 seconds, and 2.5 for three steps
    with pytest.raises(DeadlineUnreachableError):
        scheduler.check_room(Prospect(deadline=10.0 + 24.0, client="many", max_steps=20), 10.0)
    scheduler.check_room(Prospect(deadline=10.0 + 24.0, client="many", max_steps=1), 10.0)


def test_those_on_their_way_to_the_queue_are_reckoned_with() -> None:
    scheduler = busy_scheduler(2.0)  # nine wait, 2.5 seconds for each
    prospect = Prospect(deadline=10.0 + 29.0, client="many")
    scheduler.check_room(replace(prospect, num_ahead=1), 10.0)
    with pytest.raises(DeadlineUnreachableError):
        scheduler.check_room(replace(prospect, num_ahead=4), 10.0)
    with pytest.raises(QueueFullError, match="512 requests are waiting"):
        scheduler.check_room(replace(prospect, deadline=math.inf, num_ahead=503), 10.0)
