"""What was checked, what failed, and what was not run."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired

import httpx

ROOT = Path(__file__).parents[2]
_SHOWN_LINES = 30


class CheckFailedError(Exception):
    """Something is not as it is promised."""


@dataclass(slots=True)
class Report:
    """Prints each check as it ends."""

    num_passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def check(self, name: str, run: Callable[[], str | None]) -> bool:
        """Run one check; what it returns is shown with its name."""
        started = time.monotonic()
        try:
            detail = run()
        except (CheckFailedError, ValueError, OSError, httpx.HTTPError, TimeoutExpired) as failure:
            self.failed.append(name)
            _say(f"FAILED  {name}\n{failure}")
            return False
        self.num_passed += 1
        _say(f"ok      {name}, {time.monotonic() - started:.1f} s{f': {detail}' if detail else ''}")
        return True

    def skip(self, name: str, reason: str) -> None:
        """Say loudly that something was not run."""
        self.skipped.append(name)
        _say(f"SKIPPED {name}: {reason}")

    def close(self) -> int:
        """The last lines; the exit status."""
        for name in self.failed:
            _say(f"failed: {name}")
        for name in self.skipped:
            _say(f"NOT RUN: {name}")
        _say(
            f"deployment: {self.num_passed} checks held, {len(self.failed)} did not, "
            f"{len(self.skipped)} were not run"
        )
        return 1 if self.failed else 0


def expect(condition: object, message: str) -> None:
    """Fail the check that runs, unless the condition holds."""
    if not condition:
        raise CheckFailedError(message)


def output_of(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout_s: float = 1800,
) -> str:
    """Standard output of a command that must succeed; both outputs are shown if it does not."""
    done = run(command, environment=environment, cwd=cwd, timeout_s=timeout_s)
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()[-_SHOWN_LINES:]
        raise CheckFailedError(
            "\n".join([f"{' '.join(command)}: status {done.returncode}", *lines])
        )
    return done.stdout


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout_s: float = 1800,
) -> subprocess.CompletedProcess[str]:
    """A command that may fail."""
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=timeout_s
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
