"""Tries settings of the peers, to find the best of each.

`python -m benchmarks sweep`: the candidates of a system take turns, with the same requests.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.libraries import Knobs
from benchmarks.plan import Measurement
from benchmarks.processes import RefusedError, started
from benchmarks.results import Results
from benchmarks.run import measure
from benchmarks.systems import Mode

_USES = ((2, 1), (1, 2))  # threads of one batch, and batches side by side


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Which systems are tried on what.

    Attributes:
        mode: `offline` or `closed`.
        workload: Of `WORKLOADS`.
        systems: Of `SYSTEMS`.
        num_requests: For each candidate.
        num_rounds: How often.
        setting: `{"concurrency": 64}` of a closed loop.
        batch_sizes: To try with each use of the cores.
        slacks: Length slacks to try beside each system's own.
        waits_ms: Waits to try beside each server's own.
    """

    mode: Mode
    workload: str
    systems: Sequence[str]
    num_requests: int
    num_rounds: int
    setting: Mapping[str, Any] = field(default_factory=dict)
    batch_sizes: Sequence[int] = ()
    slacks: Sequence[float] = ()
    waits_ms: Sequence[float] = ()


_CTRANSLATE2 = ("ctranslate2", "ctranslate2-int8")
_BATCH_SIZES = (16, 32, 64)
_SLACKS = (0.0, 0.25, 0.5)
SWEEPS = (
    # Where targets are of one length, or not forced, batches can be large.
    Sweep(
        mode="closed",
        workload="translate-even",
        systems=_CTRANSLATE2,
        num_requests=128,
        num_rounds=2,
        setting={"concurrency": 64},
        batch_sizes=_BATCH_SIZES,
        waits_ms=(20.0,),
    ),
    Sweep(
        mode="closed",
        workload="shipped-translate",
        systems=("litserve",),
        num_requests=128,
        num_rounds=2,
        setting={"concurrency": 64},
        batch_sizes=_BATCH_SIZES,
        waits_ms=(20.0,),
    ),
    Sweep(
        mode="closed",
        workload="translate",
        systems=("litserve", *_CTRANSLATE2),
        num_requests=96,
        num_rounds=1,
        setting={"concurrency": 32},
        slacks=_SLACKS,
    ),
    Sweep(
        mode="offline",
        workload="translate",
        systems=("transformers", *_CTRANSLATE2),
        num_requests=96,
        num_rounds=1,
        batch_sizes=_BATCH_SIZES,
        slacks=_SLACKS,
    ),
)
"""Three quarters of an hour on two cores."""
SWEPT = tuple(dict.fromkeys(name for each in SWEEPS for name in each.systems))


def candidates(base: Knobs, swept: Sweep) -> list[Knobs]:
    """The base; each use of two cores with each size of batches; the other slacks and waits.

    Args:
        base: What is not tried is as here.
        swept: Names what is tried.
    """
    found = [base]
    found += [
        replace(base, num_threads=threads, num_workers=workers, max_batch_size=size)
        for threads, workers in _USES
        for size in swept.batch_sizes
    ]
    found += [replace(base, length_slack=slack) for slack in swept.slacks]
    found += [replace(base, wait_ms=wait) for wait in swept.waits_ms]
    return list(dict.fromkeys(found))


def sweep(sweeps: Sequence[Sweep], systems: Sequence[str], to: Results) -> None:
    """Measure each candidate of the systems that are named, in each round."""
    turns = [
        (each, name, number)
        for each in sweeps
        for name in each.systems
        if name in systems
        for number in range(each.num_rounds)
    ]
    for each, name, number in turns:
        try:
            for measured in _round(each, name, number):
                to.add(measured)
        except RefusedError as error:
            to.leave_out(each.workload, name, each.mode, str(error))


def _round(swept: Sweep, name: str, number: int) -> Iterator[dict[str, Any]]:
    each = Measurement(
        mode=swept.mode,
        workload=swept.workload,
        system=name,
        round=number,
        num_requests=swept.num_requests,
        setting=swept.setting,
        seconds=0.0,
    )
    _, base = each.process
    for knobs in candidates(base, swept):  # one at a time: all are too large together
        with started(swept.mode, name, swept.workload, knobs) as process:
            measured = measure(each, process, swept.setting)
        setting = dict(swept.setting) | asdict(knobs)
        print(f"{name} {setting}: {measured['seconds']:.1f} s", file=sys.stderr)
        yield each.record(setting) | measured
