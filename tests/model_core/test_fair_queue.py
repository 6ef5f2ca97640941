import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.fair_queue import FairQueue
from model_core.request import Priority, Request
from tests.model_core.fakes import parameters

PRIORITIES: tuple[Priority, ...] = ("interactive", "bulk")
NEWCOMER = "newcomer"


def add(
    queue: FairQueue, client: str, work: float = 1.0, priority: Priority = "interactive"
) -> Request:
    request = Request("req", (5,), parameters(), client=client, priority=priority)
    queue.add(request, work)
    return request


def take(queue: FairQueue) -> Request:
    request = queue.next
    queue.take(request)
    return request


def num_before(queue: FairQueue, client: str, priority: Priority) -> int:
    """How many requests really go first, each of the same work."""
    last = add(queue, client, priority=priority)
    num = 0
    while take(queue) is not last:
        num += 1
    return num


def test_before_a_newcomer_is_one_request_of_each_who_waits() -> None:
    queue = FairQueue()
    for number in range(50):
        add(queue, f"client {number}")
    assert queue.work_before(NEWCOMER, "interactive") == 50
    assert num_before(queue, NEWCOMER, "interactive") == 50


def test_what_a_client_sends_delays_another_by_no_more_than_one_request() -> None:
    queue = FairQueue()
    for _ in range(500):
        add(queue, "many")
    assert queue.work_before(NEWCOMER, "interactive") == 1
    assert queue.work_before("many", "interactive") == 500


def test_whoever_had_its_share_lately_comes_after_a_newcomer() -> None:
    queue = FairQueue()
    for _ in range(10):
        add(queue, "many")
    waiting = add(queue, "one")
    while take(queue) is not waiting:
        pass
    assert queue.work_before("one", "interactive") <= 1


def test_interactive_requests_wait_for_a_ninth_of_bulk_and_bulk_for_the_rest() -> None:
    queue = FairQueue()
    for number in range(80):
        add(queue, f"client {number}")
        add(queue, f"client {number}", priority="bulk")
    assert queue.work_before(NEWCOMER, "interactive") == pytest.approx(80 + 10, abs=1)
    assert queue.work_before(NEWCOMER, "bulk") == pytest.approx(80 + 80, abs=1)


@given(
    waiting=st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(PRIORITIES)), max_size=40
    ),
    takes=st.lists(st.integers(0, 40), max_size=10),
    client=st.sampled_from(["a", "b", NEWCOMER]),
    priority=st.sampled_from(PRIORITIES),
)
def test_what_is_due_before_a_request_is_foreseen(
    waiting: list[tuple[str, Priority]], takes: list[int], client: str, priority: Priority
) -> None:
    queue = FairQueue()
    for number, (each, its_priority) in enumerate(waiting):
        add(queue, each, priority=its_priority)
        if number in takes:
            take(queue)
    foreseen = queue.work_before(client, priority)
    # Turns of classes and of clients end one by one: a request of each may go either way, and
    # eight for one between the classes.
    assert num_before(queue, client, priority) == pytest.approx(foreseen, abs=12)
