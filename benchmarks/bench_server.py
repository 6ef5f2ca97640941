"""Tandem against a plain endpoint: the same requests, in interleaved rounds.

Prints a Markdown table, and writes everything that was measured as JSON.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.settings import SHIPPED

_RESULTS = Path(__file__).with_name("results")
_PACKAGES = ("tandem-serve", "torch", "transformers", "tokenizers", "fastapi", "uvicorn")


@dataclass
class Measured:
    """Runs of one server at one concurrency."""

    requests_per_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    def add(self, run: dict[str, Any]) -> None:
        """Take in one run of the load generator."""
        self.requests_per_s.append(len(run["latencies_s"]) / run["seconds"])
        self.latencies_s.extend(run["latencies_s"])

    @property
    def throughput(self) -> float:
        """Requests per second, median of the rounds."""
        return statistics.median(self.requests_per_s)

    def percentile_ms(self, percent: int) -> float:
        """Latency in milliseconds, over all rounds."""
        return 1000 * statistics.quantiles(self.latencies_s, n=100, method="inclusive")[percent - 1]


@contextmanager
def running(command: list[str]) -> Iterator[str]:
    """A server process; gives the address that it announces in its first line."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline().split()
            if not line:
                raise RuntimeError(f"{' '.join(command)} ended before it was ready")
            yield line[-1]
        finally:
            server.terminate()
            server.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_WAIT_POLICY": "passive"}


def tandem_command(checkpoint: str) -> list[str]:
    """Command of the real server, with its own defaults, on a free port."""
    flags = ["--port", "0", "--translate-model", checkpoint, "--summarize-model", "none"]
    return [sys.executable, "-m", "app", "serve", *flags]


def plain_command(checkpoint: str) -> list[str]:
    """Command of the plain server, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--checkpoint", checkpoint, "--port", str(port)]
    return [sys.executable, "-m", "benchmarks.plain_server", *flags]


def send(
    url: str, num_clients: int, num_requests: int, num_beams: int, seed: int
) -> dict[str, Any]:
    """One run of the load generator, in a process of its own."""
    flags = {
        "--url": url,
        "--num-clients": num_clients,
        "--num-requests": num_requests,
        "--num-beams": num_beams,
        "--seed": seed,
    }
    words = [str(word) for pair in flags.items() for word in pair]
    command = [sys.executable, "-m", "benchmarks.load", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    run: dict[str, Any] = json.loads(done.stdout)
    return run


def measure(arguments: argparse.Namespace) -> dict[tuple[str, int], Measured]:
    """All rounds; servers and concurrencies take turns in each, with texts new to both."""
    commands = {
        "tandem": tandem_command(arguments.checkpoint),
        "plain": plain_command(arguments.checkpoint),
    }
    results: dict[tuple[str, int], Measured] = {}
    with ExitStack() as stack:
        urls = {name: stack.enter_context(running(each)) for name, each in commands.items()}
        for url in urls.values():
            send(url, 4, 8, arguments.num_beams, seed=0)  # warm-up
        for number in range(arguments.num_rounds):
            for num_clients in arguments.concurrency:
                seed = 1000 * number + num_clients
                for name, url in urls.items():
                    run = send(url, num_clients, arguments.num_requests, arguments.num_beams, seed)
                    results.setdefault((name, num_clients), Measured()).add(run)
                    print(f"round {number + 1}: {name} at {num_clients}", file=sys.stderr)
    return results


def table(results: dict[tuple[str, int], Measured]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| concurrency | server | requests/s | p50 ms | p95 ms | ratio |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for (name, num_clients), measured in sorted(results.items(), key=lambda each: each[0][1]):
        ratio = measured.throughput / results["plain", num_clients].throughput
        lines.append(
            f"| {num_clients} | {name} | {measured.throughput:.1f} | "
            f"{measured.percentile_ms(50):.0f} | {measured.percentile_ms(95):.0f} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def report(arguments: argparse.Namespace, results: dict[tuple[str, int], Measured]) -> str:
    """Everything that was measured, and with what."""
    content = {
        "arguments": vars(arguments) | {"checkpoint": Path(arguments.checkpoint).name},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
        "results": [
            {
                "server": name,
                "concurrency": num_clients,
                "requests_per_s": measured.requests_per_s,
                "p50_ms": measured.percentile_ms(50),
                "p95_ms": measured.percentile_ms(95),
            }
            for (name, num_clients), measured in results.items()
        ],
    }
    return json.dumps(content, indent=2)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default=str(SHIPPED / "translate-en-de"))
    parser.add_argument("--num-requests", type=int, default=200)
    parser.add_argument("--num-beams", type=int, default=4)
    parser.add_argument("--num-rounds", type=int, default=2)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    arguments = parser.parse_args()
    results = measure(arguments)
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / "server.json"
    path.write_text(report(arguments, results) + "\n", encoding="utf-8")
    print(table(results))
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main()
