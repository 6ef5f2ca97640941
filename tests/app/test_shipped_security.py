"""A real process with keys: what it answers and prints, and what malformed HTTP gets."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.app.waiting import eventually
from tests.fuzz.raw_http import exchange
from tests.fuzz.server import Served, serve

_PATIENCE_S = 120  # a limit that only fails the test
ADA, BOB, EVE = (f"{name}-0123456789abcdef" for name in ("ada", "bob", "eve"))
TEXT = "Zanzibar keeps its secrets."
CLIENT = "127.0.0.9"  # an address that nothing else has: a client's, if it is seen anywhere


@dataclass(frozen=True)
class Guarded:
    """A server process with keys."""

    served: Served
    metrics_port: int
    keys_file: Path

    @property
    def log(self) -> str:
        return self.served.log.read_text(encoding="utf-8")

    def client(self, key: str = "") -> httpx.Client:
        transport = httpx.HTTPTransport(local_address=CLIENT)
        headers = {"X-API-Key": key} if key else {}
        url = f"http://127.0.0.1:{self.served.port}"
        return httpx.Client(base_url=url, transport=transport, headers=headers, timeout=_PATIENCE_S)

    def raw(self, *pieces: bytes, hangs_up: bool = False) -> bytes:
        """What the server answers to these bytes until it closes the connection."""
        return exchange(self.served.port, *pieces, hangs_up=hangs_up)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("served")
    keys_file = folder / "keys"
    keys_file.write_text(f"ada:{ADA}\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics_port = free.getsockname()[1]
    flags = ["--api-keys-file", str(keys_file), "--summarize-model", "none"]
    flags += ["--metrics-port", str(metrics_port), "--max-header-bytes", "2048"]
    keys = {"TANDEM_API_KEYS": f"bob:{BOB}"}
    with serve(folder / "log", *flags, lives_s=2 * _PATIENCE_S, **keys) as served:
        yield Guarded(served, metrics_port, keys_file)


async def test_keys_are_read_again_on_sighup(guarded: Guarded) -> None:
    with guarded.client(ADA) as ada, guarded.client(EVE) as eve:
        assert (ada.get("/info").status_code, eve.get("/info").status_code) == (200, 401)
        guarded.keys_file.write_text(f"eve:{EVE}\n")
        guarded.served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: eve.get("/info").status_code == 200)
        assert ada.get("/info").status_code == 401
        with guarded.client(BOB) as bob:
            assert bob.get("/info").status_code == 200


def test_metrics_have_a_port_of_their_own_and_need_no_key(guarded: Guarded) -> None:
    answer = httpx.get(f"http://127.0.0.1:{guarded.metrics_port}/metrics")

    assert answer.status_code == 200
    assert "tandem_calls_total" in answer.text


# Each is answered, or its connection closed; none reaches a handler that fails.
MALFORMED = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n",),
    "no length": (b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",),
    "two lengths": (
        b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ),
    "two ways to end": (
        b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /info HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    "huge length": (
        b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 1000 + b"\r\n\r\n",
    ),
    "bad name": (b"GET /health HTTP/1.1\r\nHost: a\r\nb c: d\r\n\r\n",),
    "bad value": (b"GET /health HTTP/1.1\r\nHost: a\r\nb: \x00\r\n\r\n",),
    "endless headers": (b"GET /health HTTP/1.1\r\nHost: a\r\n", b"X-A: " + b"x" * 100_000),
    "endless line": (b"GET /" + b"x" * 100_000,),
}


@pytest.mark.parametrize("pieces", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_http_gets_a_problem_and_its_connection_is_closed(
    pieces: tuple[bytes, ...], guarded: Guarded
) -> None:
    received = guarded.raw(*pieces)

    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status in (400, 431), head
    assert b"application/problem+json" in head
    assert b"x-request-id" in head.lower()
    problem, _ = json.JSONDecoder().raw_decode(body.decode())
    assert problem["status"] == status
    assert b"connection: close" in head.lower()
    assert received.count(b"HTTP/1.1 ") == 1  # the rest is no second request


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\nabc\r\n",
        b"5\r\nabc\r\n",
        b"-1\r\n",
        b"5;" + b"x" * 5000,
        b"ffffffffffffffffffff\r\n",
    ],
    ids=["no size", "short", "negative", "extension", "huge"],
)
def test_a_body_that_breaks_off_in_its_chunks_disturbs_nobody(
    chunks: bytes, guarded: Guarded
) -> None:
    head = b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += b"X-API-Key: " + BOB.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    received = guarded.raw(head, b'3\r\n{"t\r\n', chunks, hangs_up=True)

    assert b" 500 " not in received.partition(b"\r\n")[0]
    with guarded.client() as client:
        assert client.get("/health").status_code == 200
    assert not guarded.served.faults


def test_chunks_that_break_after_the_answer_disturb_nobody(guarded: Guarded) -> None:
    head = b"POST /translate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    address = ("127.0.0.1", guarded.served.port)
    with socket.create_connection(address, timeout=_PATIENCE_S) as connection:
        connection.sendall(head)
        received = connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 401 ")
        connection.sendall(b"zz\r\n")
        while connection.recv(65536):
            pass

    assert not guarded.served.faults


def test_pipelined_requests_are_answered_in_their_order(guarded: Guarded) -> None:
    requests = [
        b"GET /%s HTTP/1.1\r\nHost: a\r\nX-Request-ID: id-%d\r\nX-API-Key: %s\r\n%s\r\n"
        % (path, number, BOB.encode(), b"Connection: close\r\n" if path == b"ready" else b"")
        for number, path in enumerate([b"health", b"nowhere", b"info", b"ready"])
    ]
    received = guarded.raw(b"".join(requests))

    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"404", b"200", b"200"]
    assert re.findall(rb"x-request-id: (\S+)", received) == [b"id-0", b"id-1", b"id-2", b"id-3"]


def test_no_key_no_text_and_no_address_is_printed_or_answered(guarded: Guarded) -> None:
    bodies = [
        {"text": TEXT},
        {"text": [TEXT, ""]},
        {"text": TEXT, "parameters": {"num_beams": 1000}},
        {"text": TEXT, "source_lang": "xx"},
        {"text": {"a": TEXT}},
        {"txt": TEXT},
        {"text": TEXT * 20_000},
        {"text": TEXT, "timeout_s": 0.000001},
        {"text": "a", "target_prefix": [TEXT]},
        {"text": TEXT, "parameters": {"stop_strings": [TEXT]}},
    ]
    answers: list[httpx.Response] = []
    for key in ("", BOB, "wrong-0123456789abcdef"):
        with guarded.client(key) as client:
            answers += [client.post("/translate", json=body) for body in bodies]
            answers += [client.get(path, params={"text": TEXT}) for path in ("/info", f"/{TEXT}")]
            answers.append(client.post("/translate", content=json.dumps(TEXT)[:-1]))
            headers = {
                "Authorization": f"Bearer {key or BOB[:-1]}",
                "traceparent": TEXT,
                "X-A": TEXT,
            }
            answers.append(client.get("/languages", headers=headers))
    guarded.raw(b"GET / HTTP/1.1\r\n" + BOB.encode() + b"\r\n" + TEXT.encode() + b"\r\n\r\n")
    metrics = httpx.get(f"http://127.0.0.1:{guarded.metrics_port}/metrics").text

    shown = [guarded.log, metrics]
    shown += [str(dict(answer.headers)) for answer in answers]
    shown += [answer.text for answer in answers if answer.status_code != 200]
    everything = "\n".join(shown)
    assert {200, 401, 404, 422, 504} <= {answer.status_code for answer in answers}
    for secret in (ADA, BOB, EVE, "wrong-0123456789abcdef", "Zanzibar", CLIENT):
        assert secret not in everything, secret
    assert 'client="bob"' in metrics
    for line in guarded.log.splitlines():
        assert {"time", "level", "logger", "message"} <= json.loads(line).keys()
