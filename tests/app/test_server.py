"""The real process, real sockets, the checkpoints that come with the project."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from app.healthcheck import is_healthy
from app.server import serve
from tests.app.fakes import SETTINGS, Backwards
from tests.app.processes import Served, serving

LONG = {
    "text": [f"I have {number} cats." for number in range(1000)],
    "parameters": {"num_beams": 16, "min_new_tokens": 100},
}
SLOW = {"text": "My brother works.", "parameters": {"num_beams": 4, "min_new_tokens": 100}}
FLAGS = ("--summarize-model", "none", "--lame-duck-s", "0")


def test_the_shipped_checkpoints_answer_and_sigterm_ends_the_server_with_0() -> None:
    with serving("--lame-duck-s", "0") as served:
        assert served.client.get("/ready").json() == {"status": "ready"}
        translated = served.client.post(
            "/translate", json={"text": ["The coffee is cold.", "Thank you!"]}
        )
        summarized = served.client.post(
            "/summarize",
            json={
                "text": "Bridges age, and inspecting them is expensive. We present a method that "
                "detects cracks in concrete bridges from photographs taken by small drones.",
                "parameters": {"num_beams": 4, "max_length": 40},
            },
        )
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0

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
    with serving(*FLAGS) as served, ThreadPoolExecutor() as threads:
        call = threads.submit(served.client.post, "/translate", json={"text": texts})
        while not _is_decoding(served):
            assert not call.done(), call.result().text
        served.process.send_signal(signal.SIGTERM)
        response = call.result()
        assert served.end() == 0

    assert len(response.json()["translations"]) == len(texts)


def test_a_draining_server_says_so_and_a_second_sigterm_ends_it_at_once() -> None:
    with serving(*FLAGS) as served, ThreadPoolExecutor() as threads:
        call = threads.submit(_outcome_of, served.client, LONG)
        while not _is_decoding(served):
            assert not call.done(), call.result()
        served.process.send_signal(signal.SIGTERM)
        while (ready := served.client.get("/ready")).status_code == 200:
            pass
        refused = served.client.post("/translate", json={"text": "Thank you!"})
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == -signal.SIGTERM

    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tandem:unavailable")
    assert refused.headers["connection"] == "close"
    assert call.result() == "cut off"


def test_sigterm_says_not_ready_at_once_while_calls_are_still_taken() -> None:
    flags = ("--summarize-model", "none", "--lame-duck-s", "2")
    with serving(*flags) as served, ThreadPoolExecutor() as threads:
        call = threads.submit(served.client.post, "/translate", json=SLOW)
        while not _is_decoding(served):
            assert not call.done(), call.result()
        served.process.send_signal(signal.SIGTERM)
        while (ready := served.client.get("/ready")).status_code == 200:
            pass
        health = served.client.get("/health")
        taken = httpx.post(f"{served.client.base_url}/translate", json={"text": "Thank you!"})
        begun_before = call.result()
        assert served.end() == 0

    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert health.status_code == 200
    assert (taken.status_code, begun_before.status_code) == (200, 200)
    for response in (ready, health, taken, begun_before):
        assert response.headers["connection"] == "close"


def test_sigint_ends_an_idle_server_without_waiting_for_load_balancers() -> None:
    with serving("--summarize-model", "none", "--lame-duck-s", "3600") as served:
        served.process.send_signal(signal.SIGINT)
        assert served.end() == 0


def test_a_second_sigterm_ends_a_server_that_still_takes_calls() -> None:
    with serving("--summarize-model", "none", "--lame-duck-s", "3600") as served:
        served.process.send_signal(signal.SIGTERM)
        while served.client.get("/ready").status_code == 200:
            pass
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == -signal.SIGTERM


def test_clients_that_stall_do_not_hold_up_the_end() -> None:
    with serving(*FLAGS) as served, ExitStack() as stalling:
        for sent in (b"", b"POST /tr", b"POST /translate HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"):
            connection = socket.create_connection(served.address)
            stalling.enter_context(connection).sendall(sent)
        assert served.client.get("/ready").status_code == 200
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0


def test_calls_in_flight_when_the_time_to_drain_is_over_are_answered_with_503() -> None:
    with serving(*FLAGS, "--drain-s", "0") as served, ThreadPoolExecutor() as threads:
        call = threads.submit(served.client.post, "/translate", json=LONG)
        while not _is_decoding(served):
            assert not call.done(), call.result().text
        served.process.send_signal(signal.SIGTERM)
        response = call.result()
        assert served.end() == 0

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
    monkeypatch.setattr("app.server.open_service", lambda settings, *, has_workers: app.service)
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


def _is_decoding(served: Served) -> bool:
    return served.sample("tandem_running_requests") > 0


@pytest.mark.usefixtures("_signals_as_before")
def test_sigterm_while_loading_ends_the_process_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process of a container gets no signal that it does not handle."""
    monkeypatch.setattr(
        "app.server.open_service", lambda *_, **__: signal.raise_signal(signal.SIGTERM)
    )

    with pytest.raises(SystemExit) as ended:
        serve(SETTINGS.model_copy(update={"port": 0}), lambda _: None)

    assert ended.value.code == 0


def test_the_health_check_of_the_image_asks_the_server() -> None:
    with serving(*FLAGS) as served:
        _, port = served.address
        assert is_healthy(port)
    assert not is_healthy(port)
