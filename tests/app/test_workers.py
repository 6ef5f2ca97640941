"""Server processes with workers: what their clients see when signals come and processes end."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from soak.server import children_of
from tests.app.processes import Served, serving, until

WORKERS = ("--workers", "2", "--lame-duck-s", "0")
TRANSLATE = (*WORKERS, "--summarize-model", "none")
TEXTS = [f"The {word} is near the old station." for word in ("dog", "cat", "house", "river")]
LONG = {"num_beams": 2, "min_new_tokens": 60, "max_new_tokens": 60}


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    return "\nState:\tZ" not in status


def none_is_running(pids: Sequence[int]) -> bool:
    return not any(map(is_running, pids))


def send(signal_number: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        os.kill(pid, signal_number)


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Processes stand still meanwhile; also where a test fails, or they would outlive it."""
    send(signal.SIGSTOP, pids)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def post(served: Served, text: str) -> httpx.Response:
    return served.client.post("/translate", json={"text": text, "parameters": LONG})


Calls = Sequence[Future[httpx.Response]]


@contextmanager
def under_load(served: Served) -> Iterator[Calls]:
    """Some calls that both workers are at."""
    with ThreadPoolExecutor(len(TEXTS)) as threads:
        calls = [threads.submit(post, served, text) for text in TEXTS]
        served.until(lambda: served.sample("tandem_running_requests") == len(TEXTS))
        yield calls


def texts_of(calls: Calls) -> list[str]:
    responses = [call.result() for call in calls]
    assert [response.status_code for response in responses] == [200] * len(responses)
    return [response.json()["translations"][0]["text"] for response in responses]


def test_both_endpoints_answer_and_sigterm_lets_calls_end_and_then_the_workers() -> None:
    with serving(*WORKERS) as served:
        workers = children_of(served.process.pid)
        assert len(workers) == 2
        summarized = served.client.post("/summarize", json={"text": " ".join(TEXTS)})
        with under_load(served) as calls:
            served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
        assert none_is_running(workers)

    assert summarized.json()["summaries"][0]["text"]
    assert all(texts_of(calls))
    assert "Traceback" not in served.log


def test_a_worker_that_is_killed_under_load_costs_nobody_an_answer() -> None:
    with serving(*TRANSLATE) as served:
        expected = [post(served, text).json()["translations"][0]["text"] for text in TEXTS]
        killed, other = children_of(served.process.pid)
        with under_load(served) as calls:
            os.kill(killed, signal.SIGKILL)
        assert texts_of(calls) == expected
        assert served.client.get("/ready").status_code == 200
        assert killed not in (now := children_of(served.process.pid))
        assert other in now
        assert len(now) == 2


def test_workers_end_with_a_server_that_is_killed() -> None:
    with serving(*TRANSLATE) as served:
        workers = children_of(served.process.pid)
        served.process.kill()
        served.end()
        until(lambda: none_is_running(workers))

    assert len(workers) == 2


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_of_processes_lets_calls_end(
    signal_number: signal.Signals,
) -> None:
    with serving(*TRANSLATE) as served:
        workers = children_of(served.process.pid)
        with under_load(served) as calls:
            send(signal_number, (*workers, served.process.pid))
        assert served.end() == 0
        assert none_is_running(workers)

    assert all(texts_of(calls))
    assert "started again" not in served.log


def test_a_worker_that_is_stuck_says_where_and_the_server_goes_on_after_it() -> None:
    with serving(*TRANSLATE, "--stuck-s", "2") as served, ThreadPoolExecutor() as threads:
        with stopped(children_of(served.process.pid)):
            call = threads.submit(post, served, TEXTS[0])
            served.until(lambda: "a step is stuck after" in served.log)
            health = served.client.get("/health")
        answered = call.result()
        served.until(lambda: served.client.get("/ready").status_code == 200)

    assert health.json() == {"status": "stuck"}
    assert answered.status_code == 200
    assert "in run_worker" in served.log, "the log shows where the workers were"


def test_a_server_whose_worker_is_stuck_still_ends_in_time() -> None:
    with serving(*TRANSLATE, "--drain-s", "0") as served, ThreadPoolExecutor() as threads:
        workers = children_of(served.process.pid)
        with stopped(workers):
            call = threads.submit(post, served, TEXTS[0])
            served.until(lambda: served.sample("tandem_running_requests") > 0)
            served.process.send_signal(signal.SIGTERM)
            cut_off = call.result()
            assert served.end() == 0
            assert none_is_running(workers)

    assert (cut_off.status_code, cut_off.json()["type"]) == (503, "urn:tandem:unavailable")
