"""The real process, real sockets, the checkpoints that come with the project."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Timer
from typing import Any

import httpx
import pytest

from app.server import serve
from tests.app.fakes import SETTINGS, Backwards

_START_S = 120  # a limit that only fails the test
LONG = {
    "text": [f"I have {number} cats." for number in range(1000)],
    "parameters": {"num_beams": 16, "min_new_tokens": 100},
}


@contextmanager
def serving(*flags: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A `tandem serve` process that is ready, and a client of it."""
    command = [sys.executable, "-m", "app", "serve", "--port", "0", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        overdue = Timer(_START_S, process.kill)
        overdue.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Tandem is ready at http://127.0.0.1:"), line
            with httpx.Client(base_url=line.split()[-1], timeout=_START_S) as client:
                yield process, client
        finally:
            overdue.cancel()
            process.kill()


def test_the_shipped_checkpoints_answer_and_sigterm_ends_the_server_with_0() -> None:
    with serving("--lame-duck-s", "0") as (process, client):
        assert client.get("/ready").json() == {"status": "ready"}
        translated = client.post("/translate", json={"text": ["The coffee is cold.", "Thank you!"]})
        summarized = client.post(
            "/summarize",
            json={
                "text": "Bridges age, and inspecting them is expensive. We present a method that "
                "detects cracks in concrete bridges from photographs taken by small drones.",
                "parameters": {"num_beams": 4, "max_length": 40},
            },
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(_START_S) == 0

    assert [translated.status_code, summarized.status_code] == [200, 200]
    coffee, thanks = translated.json()["translations"]
    assert "Kaffee" in coffee["text"]
    assert thanks["text"]
    (summary,) = summarized.json()["summaries"]
    assert summary["text"]
    assert summary["finish_reason"] == "eos"
    usage = translated.json()["usage"]
    assert usage["source_tokens"] == coffee["source_tokens"] + thanks["source_tokens"]


def test_sigterm_lets_calls_in_flight_end() -> None:
    texts = [f"I have {number} cats." for number in range(100)]
    with (
        serving("--summarize-model", "none", "--lame-duck-s", "0") as (process, client),
        ThreadPoolExecutor() as threads,
    ):
        call = threads.submit(client.post, "/translate", json={"text": texts})
        while not _is_decoding(client):
            assert not call.done(), call.result().text
        process.send_signal(signal.SIGTERM)
        response = call.result()
        assert process.wait(_START_S) == 0

    assert len(response.json()["translations"]) == len(texts)


def test_a_draining_server_says_so_and_a_second_sigterm_ends_it_at_once() -> None:
    with (
        serving("--summarize-model", "none", "--lame-duck-s", "0") as (process, client),
        ThreadPoolExecutor() as threads,
    ):
        call = threads.submit(_outcome_of, client, LONG)
        while not _is_decoding(client):
            assert not call.done(), call.result()
        process.send_signal(signal.SIGTERM)
        while (ready := client.get("/ready")).status_code == 200:
            pass
        refused = client.post("/translate", json={"text": "Thank you!"})
        process.send_signal(signal.SIGTERM)
        assert process.wait(_START_S) == -signal.SIGTERM

    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tandem:unavailable")
    assert refused.headers["connection"] == "close"
    assert call.result() == "cut off"


def test_calls_in_flight_when_the_time_to_drain_is_over_are_answered_with_503() -> None:
    with (
        serving("--summarize-model", "none", "--lame-duck-s", "0", "--drain-s", "0") as (
            process,
            client,
        ),
        ThreadPoolExecutor() as threads,
    ):
        call = threads.submit(client.post, "/translate", json=LONG)
        while not _is_decoding(client):
            assert not call.done(), call.result().text
        process.send_signal(signal.SIGTERM)
        response = call.result()
        assert process.wait(_START_S) == 0

    assert (response.status_code, response.json()["type"]) == (503, "urn:tandem:unavailable")
    assert response.headers["content-type"] == "application/problem+json"
    assert "retry-after" in response.headers


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    for each, handler in handlers.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("_signals_as_before")
def test_a_server_that_does_not_start_says_nothing_of_being_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Backwards()

    def fail() -> None:
        raise RuntimeError("no thread for the engine")

    monkeypatch.setattr(app.loaded, "start", fail)
    monkeypatch.setattr("app.server.open_service", lambda settings: app.service)
    announced: list[str] = []

    with pytest.raises(SystemExit) as ended:
        serve(SETTINGS.model_copy(update={"port": 0}), announced.append)

    assert ended.value.code not in (0, None)
    assert announced == []


def _outcome_of(client: httpx.Client, body: dict[str, Any]) -> str:
    try:
        return f"{client.post('/translate', json=body).status_code}"
    except httpx.TransportError:
        return "cut off"


def _is_decoding(client: httpx.Client) -> bool:
    lines = client.get("/metrics").text.splitlines()
    (running,) = [line for line in lines if line.startswith("tandem_running_requests{")]
    return float(running.split()[-1]) > 0


def test_a_port_in_use_ends_the_server_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = failing("--port", str(taken.getsockname()[1]))

    assert "in use" in done.stderr


def test_a_wrong_checkpoint_ends_the_server_with_one_line() -> None:
    done = failing("--port", "0", "--translate-model", "./nowhere")

    assert "./nowhere: expected a folder or a Hub id" in done.stderr


def failing(*flags: str) -> subprocess.CompletedProcess[str]:
    """A `tandem serve` process that ends by itself, with one line."""
    command = [sys.executable, "-m", "app", "serve", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done
