"""A real server process, and all that it prints."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

_START_S = 120  # a limit that only fails a test or a run


@dataclass(frozen=True)
class Served:
    """A `tandem serve` process that is ready.

    Attributes:
        process: It ends with the context.
        port: Of 127.0.0.1.
        log: File with what it wrote to stderr.
    """

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def faults(self) -> list[str]:
        """Lines that tell of a fault of the server: an error, or what is no line of the log."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if _level_of(line) not in ("debug", "info", "warning")]


def _level_of(line: str) -> Any:
    try:
        return json.loads(line)["level"]
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def serve(
    log: Path, *flags: str, lives_s: float = _START_S, **environment: str
) -> Iterator[Served]:
    """A server on a free port.

    Args:
        log: Where its log goes.
        flags: Of `tandem serve`.
        lives_s: Seconds after which it is killed, so that nothing hangs with it.
        environment: Further variables.
    """
    command = [sys.executable, "-m", "app", "serve", "--port", "0", *flags]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=variables
        ) as process,
    ):
        overdue = Timer(lives_s, process.kill)
        overdue.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Tandem is ready"), log.read_text()
            yield Served(process, int(line.rsplit(":", 1)[1]), log)
        finally:
            overdue.cancel()
            process.kill()
