"""All requests of a workload at once: tokens per second of every system, in interleaved rounds.

Each system is a process of its own and loads once; then they take turns. Where a system does not
take the checkpoint, the table says why.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_RESULTS = Path(__file__).with_name("results")
_PACKAGES = ("tandem-serve", "torch", "transformers", "ctranslate2")
_SYSTEMS = ("tandem", "transformers", "ctranslate2", "ctranslate2-int8")
_WORKLOADS = ("translate", "translate-greedy", "summarize", "bert2bert")


@dataclass
class Measured:
    """Rounds of one system.

    Attributes:
        tokens_per_s: Of each round: tokens of the best hypotheses.
        missing: Why there are none.
    """

    tokens_per_s: list[float] = field(default_factory=list)
    missing: str = ""

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.tokens_per_s)


class Worker:
    """A process that has loaded a system."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.refusal = self._answer()

    def run(self) -> tuple[int, float]:
        """One round: tokens, and seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        tokens, seconds = json.loads(self._answer())
        return tokens, seconds

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a system ended before its answer; its errors are above")
        return line.strip()


@contextmanager
def working(name: str, workload: str, num_items: int, num_threads: int) -> Iterator[Worker]:
    """A worker, until the end of the block."""
    command = [sys.executable, "-m", "benchmarks.offline", "--worker", name]
    command += ["--workload", workload, "--num-items", str(num_items)]
    command += ["--num-threads", str(num_threads)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(num_threads)}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        try:
            yield Worker(process)
        finally:
            process.terminate()


def work(name: str, workload: str, num_items: int, num_threads: int) -> None:
    """Load a system, then decode once for every line of standard input."""
    from benchmarks.systems import SYSTEMS
    from benchmarks.workloads import WORKLOADS

    try:
        system = SYSTEMS[name](WORKLOADS[workload], num_threads)
    except (ImportError, ValueError) as error:
        print(f"{error}", flush=True)
        return
    items = WORKLOADS[workload].items(num_items)
    expected = sorted(item.target_len for item in items)
    system.decode(items[:4])  # warm-up
    print("", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        lengths = system.decode(items)
        seconds = time.perf_counter() - started
        if sorted(lengths) != expected:
            raise RuntimeError(f"{name} did other work than was asked for")
        print(json.dumps([sum(lengths), seconds]), flush=True)


def measure(workload: str, arguments: argparse.Namespace) -> dict[str, Measured]:
    """All rounds of one workload."""
    results = {name: Measured() for name in arguments.systems}
    with ExitStack() as stack:
        workers = {}
        for name in arguments.systems:
            worker = stack.enter_context(
                working(name, workload, arguments.num_items, arguments.num_threads)
            )
            if worker.refusal:
                results[name].missing = worker.refusal
            else:
                workers[name] = worker
        for number in range(arguments.num_rounds):
            for name, worker in workers.items():
                tokens, seconds = worker.run()
                results[name].tokens_per_s.append(tokens / seconds)
                print(f"{workload}, round {number + 1}: {name}", file=sys.stderr)
    return results


def table(results: Mapping[str, Mapping[str, Measured]]) -> str:
    """The figures as a Markdown table; the ratio is Tandem's to the system."""
    lines = [
        "| workload | system | tokens/s | least to most | Tandem's ratio |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for workload, by_system in results.items():
        for name, measured in by_system.items():
            if measured.missing:
                lines.append(f"| {workload} | {name} | | | {measured.missing} |")
                continue
            ours = by_system["tandem"].median / measured.median if "tandem" in by_system else 0.0
            low, high = min(measured.tokens_per_s), max(measured.tokens_per_s)
            lines.append(
                f"| {workload} | {name} | {measured.median:.0f} | {low:.0f} to {high:.0f} "
                f"| {ours:.2f} |"
            )
    return "\n".join(lines)


def report(
    arguments: argparse.Namespace, results: Mapping[str, Mapping[str, Measured]]
) -> dict[str, object]:
    """Everything that was measured, and with what."""
    return {
        "arguments": vars(arguments),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        "results": {
            workload: {name: vars(measured) for name, measured in by_system.items()}
            for workload, by_system in results.items()
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", nargs="+", choices=_WORKLOADS, default=["translate"])
    parser.add_argument("--systems", nargs="+", choices=_SYSTEMS, default=list(_SYSTEMS))
    parser.add_argument("--num-items", type=int, default=64)
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--num-threads", type=int, default=os.cpu_count())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        (workload,) = arguments.workload
        work(arguments.worker, workload, arguments.num_items, arguments.num_threads)
        return
    results = {workload: measure(workload, arguments) for workload in arguments.workload}
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / "offline.json"
    path.write_text(json.dumps(report(arguments, results), indent=2) + "\n", encoding="utf-8")
    print(table(results))
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main()
