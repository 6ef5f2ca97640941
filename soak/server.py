"""The server of a soak run: a process, what it measures of itself, and its memory."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from soak.client import Address

_KIB = 1024


class Server:
    """A running server process."""

    def __init__(self, url: str, pid: int, log: Path) -> None:
        self.address = Address(url)
        self._pid = pid
        self._pids = [pid, *children_of(pid)]
        self._log = log

    def seconds_of(self, status: int) -> list[float]:
        """How long each call took that ended so, by the server's own log."""
        lines = map(json.loads, self._log.read_text(encoding="utf-8").splitlines())
        return [line["seconds"] for line in lines if line.get("status") == status]

    @property
    def resident_bytes(self) -> int:
        """Memory of the process and of its workers that is in use."""
        sizes = [_resident_bytes(pid) for pid in self._pids]
        if None in sizes:  # a worker was started again
            self._pids = [self._pid, *children_of(self._pid)]
            sizes = [_resident_bytes(pid) for pid in self._pids]
        return sum(filter(None, sizes))

    def kill_a_worker(self) -> None:
        """End the oldest of the workers as the system ends a process that is too large."""
        for pid in sorted(children_of(self._pid))[:1]:
            os.kill(pid, signal.SIGKILL)

    async def samples(self, name: str) -> dict[str, float]:
        """Every sample of a metric, by its labels."""
        text = (await self.address.get("/metrics")).body.decode()
        found = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in found}

    async def total(self, name: str, label: str = "") -> float:
        """The sum of a metric's samples whose labels have this text."""
        samples = await self.samples(name)
        return sum(value for labels, value in samples.items() if label in labels)


def children_of(pid: int) -> list[int]:
    """Processes that a process has started; looks at all there are, which takes a while."""
    children = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"\nPPid:\t{pid}\n" in (process / "status").read_text(encoding="utf-8"):
                children.append(int(process.name))
    return children


def _resident_bytes(pid: int) -> int | None:
    """Of one process; None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith("VmRSS:")]
    return int(found[0].split()[1]) * _KIB if found else None


@contextmanager
def serving(module: str, *flags: str, **environment: str) -> Iterator[Server]:
    """A server on a free port.

    Args:
        module: `app`, or one that breaks it.
        flags: Of `tandem serve`.
        environment: Variables that it gets besides those that are set.
    """
    command = [sys.executable, "-m", module, "serve", "--port", "0", *flags]
    fixed = {"OMP_WAIT_POLICY": "passive", "TANDEM_LOG_FORMAT": "json"}
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | fixed | environment,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            if not words:
                raise RuntimeError(f"{' '.join(command)} ended before it was ready")
            yield Server(words[-1], process.pid, Path(log.name))
        finally:
            process.kill()
