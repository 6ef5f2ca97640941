"""Clients that stall, hang up or say nothing, over real sockets: the rest are served."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.app.processes import LIMIT_S, Served, serving

MAX_OPEN_FILES = 1000
BODY = json.dumps({"text": "The coffee is cold."}).encode()
NUM_CLIENTS = 100


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One server, which is impatient and may hold few connections."""
    with serving(
        *("--summarize-model", "none", "--receive-s", "0.5", "--send-s", "0.5"),
        *("--max-running-requests", "128"),
        max_open_files=MAX_OPEN_FILES,
    ) as served:
        yield served
        assert served.process.poll() is None


def head(content_length: int, **headers: str) -> bytes:
    fields = {"Host": "tandem", "Content-Type": "application/json", **headers}
    lines = [f"{name}: {value}" for name, value in fields.items()]
    lines = ["POST /translate HTTP/1.1", *lines, f"Content-Length: {content_length}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def connect(served: Served) -> socket.socket:
    return socket.create_connection(served.address, timeout=LIMIT_S)


def everything(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def is_served(served: Served) -> bool:
    response = served.client.post("/translate", json={"text": "The coffee is cold."})
    return response.status_code == 200 and "Kaffee" in response.text


@pytest.mark.parametrize("begun", [b"", b"POST /tra", b"POST /translate HTTP/1.1\r\nHost: a\r\n"])
def test_a_client_that_stalls_in_its_head_is_cut_off_with_408(served: Served, begun: bytes) -> None:
    with connect(served) as stalling:
        stalling.sendall(begun)
        assert is_served(served)
        answer = everything(stalling)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:tandem:head-timeout" in answer
    assert b"x-request-id: " in answer


def test_a_head_that_trickles_in_gains_no_time(served: Served) -> None:
    with connect(served) as trickling:
        trickling.sendall(b"POST /translate HTTP/1.1\r\nX-Long: ")
        trickling.settimeout(0.02)
        answer = b""
        with suppress(ConnectionError):
            while not answer:
                trickling.sendall(b"a")
                with suppress(TimeoutError):
                    answer = trickling.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert is_served(served)


def test_a_client_that_stalls_in_its_body_is_cut_off_with_a_problem(served: Served) -> None:
    with connect(served) as stalling:
        stalling.sendall(head(len(BODY)) + BODY[:10])
        assert is_served(served)
        answer = everything(stalling)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()
    assert b"urn:tandem:body-timeout" in answer


def test_a_body_after_its_answer_gets_no_more_time(served: Served) -> None:
    with connect(served) as stalling:
        stalling.sendall(head(10**9) + BODY)
        assert everything(stalling).startswith(b"HTTP/1.1 413 ")
    assert is_served(served)


def test_a_second_request_has_its_own_time(served: Served) -> None:
    with connect(served) as stalling:
        stalling.sendall(head(len(BODY)) + BODY)
        assert stalling.recv(65536).startswith(b"HTTP/1.1 200 ")
        stalling.sendall(b"GET /hea")
        assert b"urn:tandem:head-timeout" in everything(stalling)


@pytest.mark.parametrize("sent", [head(len(BODY)) + BODY[:10], head(len(BODY))[:30]])
def test_a_client_that_hangs_up_half_way_leaves_nothing_behind(served: Served, sent: bytes) -> None:
    for _ in range(20):
        with connect(served) as leaving:
            leaving.sendall(sent)
    assert is_served(served)
    served.until(lambda: served.sample("tandem_running_requests") == 0)


def test_a_client_that_does_not_read_its_answers_is_cut_off(served: Served) -> None:
    page = b"GET /openapi.json HTTP/1.1\r\nHost: tandem\r\n\r\n"
    with connect(served) as stalling:
        stalling.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # More than the buffers of both sides hold, so that the server has to stop.
        num_pages = 1 + 20 * 1024**2 // len(served.client.get("/openapi.json").content)
        stalling.settimeout(LIMIT_S)
        with suppress(ConnectionError):
            stalling.sendall(num_pages * page)
            assert is_served(served)
            served.until(lambda: _is_reset(stalling))
    assert is_served(served)


def _is_reset(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_two_thousand_idle_connections_leave_room_for_others(served: Served) -> None:
    """Twice as many as the server may hold: the longest idle ones make room."""
    with ExitStack() as idle:
        connections = [idle.enter_context(connect(served)) for _ in range(2000)]
        assert is_served(served)
        connections[-1].sendall(head(len(BODY)) + BODY)
        assert connections[-1].recv(65536).startswith(b"HTTP/1.1 200 ")


def test_half_of_a_hundred_clients_hang_up_in_mid_decode(served: Served) -> None:
    def send(number: int) -> socket.socket:
        body: dict[str, Any] = {"text": f"I have {number} cats."}
        body["parameters"] = {"num_beams": 2, "min_new_tokens": 120, "max_new_tokens": 120}
        payload = json.dumps(body).encode()
        connection = connect(served)
        connection.sendall(head(len(payload), Connection="close") + payload)
        return connection

    cancelled_before = served.sample("tandem_cancelled_requests_total")
    connections = [send(number) for number in range(NUM_CLIENTS)]
    served.until(lambda: served.sample("tandem_running_requests") == NUM_CLIENTS)
    finished_before = served.sample("tandem_request_seconds_count")
    for connection in connections[::2]:
        connection.close()
    served.until(lambda: served.sample("tandem_running_requests") <= NUM_CLIENTS // 2)
    assert served.sample("tandem_request_seconds_count") == finished_before, "nobody was waited for"
    with ThreadPoolExecutor(NUM_CLIENTS) as threads:
        answers = list(threads.map(everything, connections[1::2]))

    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    served.until(lambda: served.sample("tandem_running_requests") == 0)
    cancelled = served.sample("tandem_cancelled_requests_total") - cancelled_before
    assert cancelled == NUM_CLIENTS // 2
    for connection in connections[1::2]:
        connection.close()
