"""Server processes for tests, and what they say of themselves."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread, Timer
from urllib.parse import urlsplit

import httpx

LIMIT_S = 120.0  # only fails a test
_PAUSE_S = 0.005


@dataclass
class Served:
    """A server process that is ready.

    Attributes:
        process: Itself.
        client: A client of it.
    """

    process: subprocess.Popen[str]
    client: httpx.Client

    def __post_init__(self) -> None:
        self._log: list[str] = []
        self._reader = Thread(target=self._read_log)
        self._reader.start()

    @property
    def log(self) -> str:
        """What it has written to its log so far."""
        return "".join(self._log)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._log.append(line)  # one by one, as they come

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        parts = urlsplit(str(self.client.base_url))
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def sample(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.split()[-1]) for line in found)

    def has_answered(self) -> bool:
        """Whether it has answered a call."""
        return self.sample("tandem_request_seconds_count") > 0

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, as long as the process lives."""

        def holds() -> bool:
            assert self.process.poll() is None, self.log
            return condition()

        until(holds)

    def end(self) -> int:
        """Wait for the end of the process and of its log; gives its exit status."""
        status = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return status


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, under a limit that only fails the test."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(_PAUSE_S)  # leaves the cores to the server


@contextmanager
def serving(
    *flags: str, module: str = "app", max_open_files: int | None = None
) -> Iterator[Served]:
    """A `tandem serve` process on a free port; it is killed at the end.

    Args:
        flags: Of the command; it decodes itself unless they name workers, which take seconds more
            to start.
        module: What to run.
        max_open_files: Of the process; None for as many as this one.
    """
    limited = [] if max_open_files is None else ["prlimit", f"--nofile={max_open_files}"]
    own = ("--port", "0", "--workers", "0")
    command = [*limited, sys.executable, "-m", module, "serve", *own, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        overdue = Timer(LIMIT_S, process.kill)
        overdue.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            overdue.cancel()
            assert line.startswith("Tandem is ready at http://127.0.0.1:"), line
            with httpx.Client(base_url=line.split()[-1], timeout=LIMIT_S) as client:
                yield Served(process, client)
        finally:
            overdue.cancel()
            process.kill()
