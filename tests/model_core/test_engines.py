"""Several engines behind one: who gets a request, and what they say together."""

from concurrent.futures import Future

import pytest

from model_core.engine import Engine
from model_core.engines import Engines
from model_core.errors import QueueFullError
from model_core.request import Output, Prospect
from model_core.scheduler import EngineLimits
from model_core.workers.messages import Order
from model_core.workers.process import ThreadShare, Worker
from tests.model_core.fakes import Clock, FakeRunner, parameters

TIMEOUT_S = 30.0  # only fails the test


class Bench:
    """Engines over fake runners, stepped by hand."""

    def __init__(self, num_engines: int = 2, **limits: int) -> None:
        self.clock = Clock()
        self.parts = [
            Engine(
                {name: FakeRunner() for name in ("a", "b")},
                EngineLimits(**limits),
                clock=self.clock,
            )
            for _ in range(num_engines)
        ]
        self.engines = Engines(self.parts)

    def submit(
        self, *source_ids: int, num_steps: int = 3, num_beams: int = 1, name: str = "a"
    ) -> Future[Output]:
        return self.engines.submit(name, source_ids, parameters(num_steps, num_beams))

    @property
    def loads(self) -> list[int]:
        stats = [part.stats(name) for part in self.parts for name in ("a", "b")]
        counts = [each.waiting + each.running for each in stats]
        return [sum(counts[at : at + 2]) for at in range(0, len(counts), 2)]

    def run_until_idle(self) -> None:
        while self.engines.step():
            pass


def test_requests_are_spread_evenly_over_all_checkpoints() -> None:
    bench = Bench(3)
    for number in range(9):
        bench.submit(number, name="ab"[number % 2])
        assert max(bench.loads) - min(bench.loads) <= 1
    assert bench.loads == [3, 3, 3]


def test_beams_count_as_the_rows_that_they_are() -> None:
    bench = Bench()
    bench.submit(1, num_beams=4)
    for number in range(3):
        bench.submit(2, number)
    assert bench.loads == [1, 3]


def test_long_sources_count_too() -> None:
    bench = Bench()
    bench.submit(*range(40))
    for number in range(4):
        bench.submit(2, number)
    assert bench.loads == [1, 4]


def test_an_engine_that_is_done_gets_the_next_request() -> None:
    bench = Bench()
    first = bench.submit(1, num_steps=9)
    second = bench.submit(2, num_steps=1)
    bench.engines.step()
    assert (first.done(), second.done()) == (False, True)
    bench.submit(3)
    assert bench.loads == [1, 1]


def test_a_request_goes_where_an_identical_one_is_in_flight() -> None:
    bench = Bench()
    futures = [bench.submit(1), bench.submit(2)]
    bench.engines.step()
    futures += [bench.submit(1) for _ in range(4)]
    assert bench.loads == [1, 1]
    bench.run_until_idle()
    assert [future.result(timeout=0).best.token_ids[0] for future in futures] == [1, 2, 1, 1, 1, 1]


def test_an_engine_whose_worker_is_away_gets_nothing_while_there_is_another() -> None:
    bench = Bench()
    order, threads = Order({}, 0, 1), ThreadShare(1)
    workers = [Worker((), order, threads) for _ in range(2)]
    bench.engines = Engines(bench.parts, workers)
    workers[1].is_ready = True
    for number in range(3):
        bench.submit(number)
    assert bench.loads == [0, 3]
    workers[1].is_ready = False
    bench.submit(4)
    assert bench.loads == [1, 3]


def test_loads_are_added_up() -> None:
    bench = Bench(max_running_requests=1)
    for number in range(5):
        bench.submit(number, number)
    bench.engines.step()
    stats = bench.engines.stats("a")
    assert (stats.running, stats.slots_total) == (2, 2)
    assert (stats.waiting, stats.waiting_tokens) == (3, 6)


def test_where_the_queue_of_the_least_loaded_engine_is_full_another_takes_the_request() -> None:
    bench = Bench(max_waiting_requests=2)
    bench.submit(1, num_steps=90)
    for number in (2, 3):
        bench.submit(number)
    assert bench.loads == [1, 2]
    bench.engines.check_room("a", Prospect(deadline=bench.clock.now + 60))
    bench.submit(4)
    assert bench.loads == [2, 2]


def test_a_request_is_refused_when_every_queue_is_full() -> None:
    bench = Bench(max_waiting_requests=2)
    prospect = Prospect(deadline=bench.clock.now + 60)
    for number in range(4):
        bench.engines.check_room("a", prospect)
        bench.submit(number)
    with pytest.raises(QueueFullError):
        bench.engines.check_room("a", prospect)
    with pytest.raises(QueueFullError):
        bench.submit(5)
    bench.submit(1)


def test_they_are_ready_until_one_of_them_is_dead() -> None:
    bench = Bench()
    conditions = [bench.engines.condition]
    for part in bench.parts:
        part.start()
    conditions.append(bench.engines.condition)
    bench.parts[0].close(TIMEOUT_S)
    conditions.append(bench.engines.condition)
    assert conditions == ["dead", "ready", "dead"]
    assert bench.submit(7).result(TIMEOUT_S).best.token_ids == (7,)
    bench.parts[1].close(TIMEOUT_S)
