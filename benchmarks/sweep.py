"""Tries settings of the peers in a closed loop, to find its best.

`python -m benchmarks sweep`: the candidates of a system take turns, with the same requests.
"""

import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.checkpoints import checkpoint_folder
from benchmarks.libraries import Knobs
from benchmarks.plan import request_seconds
from benchmarks.processes import serving
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS

_CONCURRENCY = 32
_WAITS_MS = (0.0, 20.0)
_SLACKS = (0.0, 0.25, 0.5)
_THREADS = ((2, 1), (1, 2))  # of one batch, and batches side by side
_DEFAULT = ("litserve", "ctranslate2", "ctranslate2-int8")


def candidates(base: Knobs) -> list[Knobs]:
    """Each wait, length slack and use of two cores with the others."""
    return [
        replace(base, wait_ms=wait, length_slack=slack, num_threads=threads, num_workers=workers)
        for threads, workers in _THREADS
        for wait in _WAITS_MS
        for slack in _SLACKS
    ]


def sweep(workload: str, systems: Sequence[str] | None, num_rounds: int, seconds: float) -> None:
    """Print requests per second of each candidate, best first."""
    for system in systems or _DEFAULT:
        tried = _try(system, workload, num_rounds, seconds)
        print(f"\n{system}, {workload}, {_CONCURRENCY} clients")
        for knobs, rates in sorted(tried.items(), key=lambda pair: -statistics.median(pair[1])):
            shown = ", ".join(f"{rate:.2f}" for rate in rates)
            print(
                f"{shown:20} requests/s: wait {knobs.wait_ms:g} ms, slack {knobs.length_slack:g}, "
                f"{knobs.num_workers} batches of {knobs.num_threads} threads"
            )


def _try(name: str, workload: str, num_rounds: int, seconds: float) -> dict[Knobs, list[float]]:
    """Requests per second of each candidate in each round."""
    served = WORKLOADS[workload]
    folder = checkpoint_folder(served.checkpoint)
    num_requests = int(seconds / request_seconds(workload, name, _CONCURRENCY))
    found: dict[Knobs, list[float]] = defaultdict(list)
    for number in range(num_rounds):
        items = served.items(max(_CONCURRENCY, num_requests), seed=number)
        for knobs in candidates(SYSTEMS[name].knobs):  # one at a time: all are too large together
            system = replace(SYSTEMS[name], knobs=knobs)
            with serving(system, folder, served.task, served.items(4, seed=-1)) as server:
                run = server.send(items, concurrency=_CONCURRENCY)
            found[knobs].append(len(run["latencies_s"]) / run["seconds"])
            print(f"{name} {knobs}: {found[knobs][-1]:.2f}", file=sys.stderr)
    return found
