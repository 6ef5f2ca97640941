"""Faults of a step, brought about in a real server process, and what its clients see of them."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.app.processes import Served, serving

FLAGS = ("--summarize-model", "none", "--lame-duck-s", "0")
MATES = [f"The {word} is near the old station." for word in ("dog", "cat", "house", "river")]
LONG = {"num_beams": 2, "min_new_tokens": 40, "max_new_tokens": 40}


def faulty(*flags: str) -> AbstractContextManager[Served]:
    return serving(*FLAGS, *flags, module="tests.app.faulty_server")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One server for all faults that it survives: each leaves it as it was."""
    with faulty("--max-running-requests", "8") as served:
        yield served


def post(served: Served, text: str) -> httpx.Response:
    return served.client.post("/translate", json={"text": text, "parameters": LONG})


def post_all(served: Served, texts: Sequence[str]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(texts)) as threads:
        return list(threads.map(lambda text: post(served, text), texts))


def translations(responses: Sequence[httpx.Response]) -> list[str]:
    assert [response.status_code for response in responses] == [200] * len(responses)
    return [response.json()["translations"][0]["text"] for response in responses]


@pytest.mark.parametrize("fault", ["nan", "processor", "memory"])
def test_a_request_at_fault_ends_alone_and_its_batch_mates_are_exact(
    served: Served, fault: str
) -> None:
    expected = translations([post(served, text) for text in MATES])
    failed, *mates = post_all(served, [f"fault {fault}", *MATES])

    problem = failed.json()
    assert (failed.status_code, problem["type"]) == (500, "urn:tandem:request-failed")
    assert problem["request_id"].startswith("req-")
    for internals in ("secret", "Error", "Traceback", "memory", "nan"):
        assert internals not in failed.text
    assert translations(mates) == expected
    assert translations([post(served, MATES[0])]) == expected[:1]
    assert served.client.get("/ready").status_code == 200


def test_a_batch_too_large_for_the_memory_is_answered_in_parts_and_smaller_from_then_on(
    served: Served,
) -> None:
    expected = translations([post(served, text) for text in MATES])
    crowd = [f"fault crowd {number}" for number in range(4)]
    responses = post_all(served, [*crowd, *MATES])

    assert translations(responses)[len(crowd) :] == expected
    assert served.sample("tandem_slots_total") < 8


def test_a_loop_that_dies_is_rebuilt_and_the_next_calls_are_exact(served: Served) -> None:
    expected = translations([post(served, MATES[0])])
    died = post(served, "fault loop")
    served.until(lambda: served.client.get("/ready").status_code == 200)

    assert (died.status_code, died.json()["type"]) == (503, "urn:tandem:unavailable")
    assert "retry-after" in died.headers
    assert "mistake" not in died.text
    assert translations([post(served, MATES[0])]) == expected
    assert served.client.get("/health").status_code == 200


def test_health_fails_when_the_loop_cannot_be_rebuilt() -> None:
    with faulty() as served:
        died = post(served, "fault forever")
        served.until(lambda: served.client.get("/ready").json() == {"status": "dead"})
        health = served.client.get("/health")
        refused = post(served, MATES[0])
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0

    assert (died.status_code, health.status_code, refused.status_code) == (503, 503, 503)


def test_the_watchdog_notices_a_stuck_step_and_its_end(tmp_path: Path) -> None:
    obstacle = tmp_path / "obstacle"
    obstacle.touch()
    with faulty("--stuck-s", "2") as served, ThreadPoolExecutor() as threads:
        call = threads.submit(post, served, f"fault stuck {obstacle} is here.")
        served.until(lambda: served.client.get("/health").status_code == 503)
        ready = served.client.get("/ready")
        refused = post(served, MATES[0])
        served.until(lambda: "a step is stuck after" in served.log)
        assert not call.done()
        obstacle.unlink()
        answered = call.result()
        served.until(lambda: served.client.get("/ready").status_code == 200)

    assert (ready.status_code, ready.json()) == (503, {"status": "stuck"})
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tandem:unavailable")
    assert answered.status_code == 200
    assert "_step_with_faults" in served.log, "the log shows where"


def test_a_server_whose_step_is_stuck_still_ends_in_time(tmp_path: Path) -> None:
    obstacle = tmp_path / "obstacle"
    obstacle.touch()
    with faulty("--drain-s", "0") as served, ThreadPoolExecutor() as threads:
        call = threads.submit(post, served, f"fault stuck {obstacle} is here.")
        served.until(lambda: served.sample("tandem_running_requests") > 0)
        served.process.send_signal(signal.SIGTERM)
        cut_off = call.result()
        assert served.end() == 0

    assert (cut_off.status_code, cut_off.json()["type"]) == (503, "urn:tandem:unavailable")


def test_a_lost_device_ends_the_process_with_an_error() -> None:
    with faulty() as served:
        failed, *mates = post_all(served, ["fault lost", *MATES[:2]])
        assert served.end() not in (0, None)

    assert failed.status_code == 503
    assert "illegal" not in failed.text
    assert {response.status_code for response in mates} <= {200, 503}
    assert "the device is lost" in served.log
