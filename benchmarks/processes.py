"""Processes of systems: they load once and are stopped while another one is measured."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

import httpx

from app.native_libraries import KEPT_BYTES, NUM_HEAPS, SPIN_COUNT, WAIT_POLICY
from benchmarks.checkpoints import checkpoint_folder
from benchmarks.libraries import Knobs
from benchmarks.load import TIMEOUT_S
from benchmarks.plan import WARM_UP_S, request_seconds
from benchmarks.systems import SYSTEMS, Mode
from benchmarks.workloads import WORKLOADS, Item

_POLL_S = 0.2
_START_S = 300.0
_WARM_UP_SEED = -1
_MIN_WARM_UP, _MAX_WARM_UP = 6, 64


class RefusedError(Exception):
    """A system does not take a checkpoint; says why."""


class _Sleeper:
    """A process, with its children, that runs only while it is awake."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def sleep(self) -> None:
        """Stop it where it is."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run until the end of the block."""
        os.killpg(self._process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            self.sleep()


class Worker(_Sleeper):
    """A process of `benchmarks.worker`."""

    def ask(self, **order: Any) -> dict[str, Any]:
        """One order, and its answer."""
        with self.awake():
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = self.read()
            return answer

    def read(self) -> Any:
        """The next line that it writes."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a system ended before its answer; its errors are above")
        return json.loads(line)


class Server(_Sleeper):
    """An HTTP server of one checkpoint."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        super().__init__(process)
        self._url = url

    def send(
        self,
        items: Sequence[Item],
        concurrency: int | None = None,
        arrivals_s: Sequence[float] = (),
    ) -> dict[str, Any]:
        """One run of the load generator; see `benchmarks.load`."""
        bodies = [
            {"text": item.text, "parameters": item.parameters, "timeout_s": TIMEOUT_S}
            for item in items
        ]
        load = {"url": self._url, "bodies": bodies, "concurrency": concurrency}
        with self.awake():
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.load"],
                input=json.dumps(load | {"arrivals_s": list(arrivals_s)}),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        result: dict[str, Any] = json.loads(done.stdout)
        return result


@contextmanager
def working(name: str, workload: str, knobs: Knobs) -> Iterator[Worker]:
    """A worker that has loaded a system, asleep, until the end of the block.

    Raises:
        RefusedError: The system does not take the workload.
    """
    command = [sys.executable, "-m", "benchmarks.worker", "--system", name, "--workload", workload]
    command += ["--knobs", json.dumps(asdict(knobs))]
    with _process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        worker = Worker(process)
        refusal = worker.read()
        if refusal:
            raise RefusedError(refusal)
        worker.sleep()
        yield worker


@contextmanager
def serving(name: str, workload: str, knobs: Knobs) -> Iterator[Server]:
    """A server that has been under load for some seconds, asleep, until the end of the block.

    The first requests cost more, by what it takes the system to commit memory above all.

    Raises:
        RefusedError: The system does not take the workload, or ended before it was ready.
    """
    system, served = replace(SYSTEMS[name], knobs=knobs), WORKLOADS[workload]
    folder = checkpoint_folder(served.checkpoint)
    reason = system.library.refusal(folder)
    if reason:
        raise RefusedError(reason)
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    command = system.command(folder, served.task, port)
    num_warm_up = round(WARM_UP_S / request_seconds(workload, name, _MAX_WARM_UP))
    num_warm_up = max(_MIN_WARM_UP, min(_MAX_WARM_UP, num_warm_up))
    warm_up = served.items(num_warm_up, _WARM_UP_SEED)
    with _process(command, stdin=subprocess.DEVNULL, stdout=sys.stderr) as process:
        _wait_until_ready(process, address + system.ready_path)
        server = Server(process, f"{address}/{served.task}")
        server.send(warm_up, concurrency=len(warm_up))
        yield server


def started(
    mode: Mode, name: str, workload: str, knobs: Knobs
) -> AbstractContextManager[Worker | Server]:
    """What is measured in a mode: a server for loops, a worker for the rest."""
    if mode in ("closed", "open"):
        return serving(name, workload, knobs)
    return working(name, workload, knobs)


@contextmanager
def _process(command: list[str], **streams: Any) -> Iterator["subprocess.Popen[str]"]:
    """A process in a group of its own, which ends with the block."""
    alike = {
        # As Tandem's server sets itself up: all systems get the same.
        "OMP_WAIT_POLICY": WAIT_POLICY,
        "GOMP_SPINCOUNT": str(SPIN_COUNT),
        "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
        "MALLOC_ARENA_MAX": str(NUM_HEAPS),
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment = {**os.environ, **alike}
    with subprocess.Popen(
        command, text=True, start_new_session=True, env=environment, **streams
    ) as process:
        try:
            yield process
        finally:
            _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """LitServe's workers outlive it: the whole group ends."""
    for number in (signal.SIGCONT, signal.SIGTERM):
        _signal(process, number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _wait_until_ready(process: "subprocess.Popen[str]", url: str) -> None:
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise RefusedError(f"its server ended with {process.returncode}; its errors are above")
        with suppress(httpx.TransportError):  # it does not listen yet
            if httpx.get(url).is_success:
                return
        time.sleep(_POLL_S)
    raise RefusedError(f"its server was not ready within {_START_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
