"""Two servers behind a real load balancer: restarts and a kill under load."""

import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Lock

import httpx
import pytest

from tests.app.processes import LIMIT_S, Served, serving, until

HAPROXY = shutil.which("haproxy")
NUM_CLIENTS = 4
PAUSE_S = 0.02  # between the calls of a client: servers that start need the cores too
CONFIG = """
defaults
    mode http
    timeout connect 5s
    timeout client 120s
    timeout server 120s
    timeout check 5s
    option redispatch
    balance roundrobin
frontend tandem
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    option httpchk GET /ready
    default-server check inter 100ms fall 1 rise 1
{servers}
"""

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def balancing(folder: Path, ports: list[int]) -> Iterator[str]:
    """A haproxy over servers on these ports; gives its address."""
    port = free_port()
    servers = "\n".join(f"    server s{each} 127.0.0.1:{each}" for each in ports)
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(port=port, servers=servers))
    with subprocess.Popen([str(HAPROXY), "-q", "-db", "-f", str(config)]) as proxy:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            proxy.kill()


class Pair:
    """Two servers, each on a port of its own, behind a load balancer."""

    def __init__(self, stack: ExitStack) -> None:
        self.ports = [free_port(), free_port()]
        self._stack = stack
        with ThreadPoolExecutor() as threads:
            self.servers = list(threads.map(self._start, self.ports))

    def restart(self, number: int) -> None:
        """End a server in good order and start another in its place."""
        self.servers[number].process.send_signal(signal.SIGTERM)
        assert self.servers[number].end() == 0
        self.servers[number] = self._start(self.ports[number])

    def _start(self, port: int) -> Served:
        flags = ("--summarize-model", "none", "--lame-duck-s", "1.5", "--port", str(port))
        return self._stack.enter_context(serving(*flags))


class Load:
    """Clients that call one after the other, and count how each call ended."""

    def __init__(self, url: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url = url
        self._is_over = Event()
        self._lock = Lock()

    @contextmanager
    def running(self) -> Iterator["Load"]:
        with ThreadPoolExecutor(NUM_CLIENTS) as threads:
            clients = [threads.submit(self._call, number) for number in range(NUM_CLIENTS)]
            try:
                yield self
            finally:
                self._is_over.set()
                for client in clients:
                    client.result(LIMIT_S)

    def until_answered(self, num_more: int) -> None:
        wanted = self.outcomes["200"] + num_more
        until(lambda: self.outcomes["200"] >= wanted)

    def _call(self, client_number: int) -> None:
        number = 0
        with httpx.Client(base_url=self._url, timeout=LIMIT_S) as client:
            while not self._is_over.is_set():
                number += 1
                text = f"I have {number} cats and {client_number} dogs."
                try:
                    outcome = str(client.post("/translate", json={"text": text}).status_code)
                except httpx.TransportError as error:
                    outcome = type(error).__name__
                with self._lock:
                    self.outcomes[outcome] += 1
                self._is_over.wait(PAUSE_S)


def test_a_rolling_restart_fails_no_request_and_a_kill_only_what_the_server_held(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        pair = Pair(stack)
        url = stack.enter_context(balancing(tmp_path, pair.ports))
        until(lambda: _answers(url))
        with Load(url).running() as rolling:
            for number in range(2):
                rolling.until_answered(20)
                pair.restart(number)
                pair.servers[number].until(pair.servers[number].has_answered)
                rolling.until_answered(20)
        with Load(url).running() as killing:
            killing.until_answered(20)
            pair.servers[0].process.kill()
            killing.until_answered(40)

    assert set(rolling.outcomes) == {"200"}, rolling.outcomes
    num_lost = sum(killing.outcomes.values()) - killing.outcomes["200"]
    assert num_lost <= NUM_CLIENTS, killing.outcomes


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=LIMIT_S).status_code == 200
    except httpx.TransportError:
        return False
