"""The soak runs in short: everything adds up; times and memory are left to `make soak`."""

import asyncio

import pytest

from soak.client import Reply
from soak.endurance import FLAGS, MODULE, Report, run
from soak.overload import Phase, body, percentile
from soak.overload import Report as OverloadReport
from soak.server import serving


def test_after_some_hundred_mixed_requests_everything_adds_up() -> None:
    with serving(MODULE, *FLAGS, "--workers", "0") as server:
        report = asyncio.run(run(server, num_calls=200, num_clients=30, seed=1))

    assert report.problems() == []
    assert report.num_calls == 200
    assert {"finished", "failed", "invalid"} <= report.outcomes.keys()
    assert report.num_hung_up > 0


def test_everything_adds_up_where_workers_are_killed() -> None:
    with serving("app", *FLAGS, "--workers", "2") as server:
        report = asyncio.run(run(server, num_calls=200, num_clients=30, seed=2, kill_every=60))

    assert report.problems() == []
    assert report.outcomes["failed"] == 0
    assert {"finished", "invalid"} <= report.outcomes.keys()


def test_a_request_that_is_lost_or_counted_twice_does_not_add_up() -> None:
    report = Report(num_calls=3, counted={"finished": 2})
    report.outcomes["finished"] = 3
    assert report.problems() == ["the server counts {'finished': 2}, its clients {'finished': 3}"]
    report.counted = {"finished": 4}
    assert len(report.problems()) == 1
    report.counted = {"finished": 3}
    assert report.problems() == []
    report.left["slots"] = 1.0
    report.num_unanswered = 1
    assert len(report.problems()) == 3


def test_growth_is_seen_once_the_memory_has_settled() -> None:
    filling = [100 + 10 * min(number, 10) for number in range(40)]
    assert Report(memory=filling).growth == pytest.approx(0.0)
    growing = [1000 + number for number in range(40)]
    assert Report(memory=growing).growth == pytest.approx(0.03, rel=0.05)


def test_a_leak_is_told_from_memory_that_is_kept_for_a_while_and_given_back() -> None:
    kept = [1000 + 50 * (number % 6) for number in range(40)]
    assert not Report(memory=kept).is_growing
    leaking = [each + 2 * number for number, each in enumerate(kept)]
    assert Report(memory=leaking).is_growing


def phase(*, num_answers: int, num_refusals: int = 0, refusal_s: float = 0.01) -> Phase:
    answers = [Reply(200, b"", 0.1, ended_at=0.5)] * num_answers
    late = [Reply(200, b"", 0.1, ended_at=1.5)] * num_answers
    refusals = [Reply(503, b"", refusal_s)] * num_refusals
    return Phase(1.0, 0.0, [*answers, *late, *refusals], memory=[100] * 9)


def test_overload_is_judged_by_goodput_refusals_and_what_comes_after() -> None:
    before, best = phase(num_answers=10), phase(num_answers=100)
    good = phase(num_answers=95, num_refusals=200)
    assert OverloadReport(before, best, good, before).problems() == []
    poor = phase(num_answers=80, num_refusals=200, refusal_s=0.2)
    assert OverloadReport(before, best, poor, before).problems() == ["goodput", "refusals"]
    good.late_s = [0.0] * 90 + [0.1] * 10
    assert OverloadReport(before, best, good, before).problems() == ["calls on time"]


def test_every_call_is_a_new_text() -> None:
    assert len({str(body()["text"]) for _ in range(100)}) == 100
    assert percentile([], 99) == 0.0
