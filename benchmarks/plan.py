"""What is measured, in which order, and how long that will take."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from benchmarks.systems import SYSTEMS, Mode, systems_for
from benchmarks.workloads import WORKLOADS

Rate = tuple[str, float]
"""Whose capacity (`peer`: the best of them; `ours`; `own`: each system's), and a share of it."""


def _rates(
    peer: Sequence[float], ours: Sequence[float], own: Sequence[float] = ()
) -> tuple[Rate, ...]:
    shares = {"peer": peer, "ours": ours, "own": own}
    return tuple((of, share) for of, each in shares.items() for share in each)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of one workload is measured.

    Attributes:
        offline: Requests that are there at once; 0 leaves the mode out.
        steps: Rows of a decoder step.
        closed: Requests by concurrency.
        open_rates: See `Rate`.
        open_s: How long requests arrive at each rate.
        rounds: Of each mode.
        most_s: A closed loop has at most as many requests as fit into this time, by the estimate.
    """

    offline: int = 0
    steps: tuple[int, ...] = ()
    closed: Mapping[int, int] = field(default_factory=dict)
    open_rates: tuple[Rate, ...] = ()
    open_s: float = 0.0
    rounds: Mapping[Mode, int] = field(default_factory=dict)
    most_s: float = 45.0


_OF_LIBRARIES: tuple[Mode, ...] = ("offline", "steps")
_OF_SERVERS: tuple[Mode, ...] = ("closed", "open")
_SHARES = (0.25, 0.5, 0.75, 0.9)
_QUICK_ROUNDS: Mapping[Mode, int] = {"offline": 3, "steps": 2, "closed": 2, "open": 1}
_FULL_ROUNDS: Mapping[Mode, int] = {"offline": 3, "steps": 5, "closed": 3, "open": 3}
_FULL = Sizes(
    offline=256,
    steps=(16, 64, 128),
    closed={1: 32, 8: 96, 32: 256, 128: 512},
    open_rates=_rates(_SHARES, _SHARES, own=_SHARES),
    open_s=120.0,
    rounds=_FULL_ROUNDS,
    most_s=600.0,
)

PLANS: dict[str, dict[str, Sizes]] = {
    "quick": {
        "translate-greedy": Sizes(offline=256, rounds=_QUICK_ROUNDS),
        "summarize": Sizes(offline=16, rounds={"offline": 2}),
        "translate": Sizes(
            offline=192,
            steps=(16, 64, 128),
            closed={1: 12, 8: 40, 32: 96, 128: 192},
            open_rates=_rates(_SHARES, (0.75, 0.9), own=(0.25, 0.5)),
            open_s=15.0,
            rounds=_QUICK_ROUNDS,
            most_s=20.0,
        ),
        "translate-even": Sizes(closed={8: 40, 32: 96}, rounds={"closed": 1}, most_s=20.0),
        "bert2bert": Sizes(offline=8, rounds={"offline": 2}),
        "shipped-translate": Sizes(
            offline=128,
            closed={1: 16, 8: 64, 32: 128, 128: 192},
            open_rates=_rates((0.75, 0.9), (0.75,), own=(0.5,)),
            open_s=15.0,
            rounds={"offline": 2, "closed": 1, "open": 1},
            most_s=30.0,
        ),
        "shipped-summarize": Sizes(offline=32, rounds={"offline": 2}),
    },
    "full": dict.fromkeys(WORKLOADS, _FULL),
    "trial": {
        "translate": Sizes(
            offline=8,
            steps=(16,),
            closed={1: 2, 8: 8},
            open_rates=_rates((0.5,), (0.5,)),
            open_s=4.0,
            rounds={"offline": 1, "steps": 1, "closed": 1, "open": 1},
        ),
        "bert2bert": Sizes(offline=2, rounds={"offline": 1}),
        "shipped-translate": Sizes(
            offline=8,
            closed={8: 16},
            open_rates=_rates((0.5,), ()),
            open_s=2.0,
            rounds={"offline": 1, "closed": 1, "open": 1},
        ),
    },
}
"""`quick` ends within an hour on two cores; `full` takes days without a GPU; `trial` minutes."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One system, measured once.

    Attributes:
        mode: How.
        workload: Of `WORKLOADS`.
        system: Of `SYSTEMS`.
        round: The systems take turns; counts from 0.
        num_requests: Offline and in a closed loop.
        setting: `{"concurrency": 8}`, `{"of": "peer", "share": 0.75}`, `{"rows": 64}` or nothing.
        seconds: Estimate.
    """

    mode: Mode
    workload: str
    system: str
    round: int
    num_requests: int
    setting: Mapping[str, Any]
    seconds: float

    @property
    def stage(self) -> tuple[str, bool]:
        """Measurements of one workload share the processes that are up, libraries or servers."""
        return self.workload, self.mode in _OF_SERVERS


def plan(
    sizes: Mapping[str, Sizes], systems: Sequence[str], modes: Sequence[Mode]
) -> list[Measurement]:
    """Every measurement, in order: within a round the systems take turns.

    Libraries come before servers, so that where time runs out each workload has a part of it.
    """
    found: list[Measurement] = []
    for stage_modes in (_OF_LIBRARIES, _OF_SERVERS):
        for workload, each in sizes.items():
            for mode in stage_modes:
                if mode in modes:
                    names = [name for name in systems_for(mode) if name in systems]
                    found += _measurements(mode, workload, each, names)
    return found


def stages(measurements: Sequence[Measurement]) -> Iterator[list[Measurement]]:
    """Runs of measurements that share the processes that are up."""
    for _, stage in groupby(measurements, key=lambda each: each.stage):
        yield list(stage)


def _measurements(
    mode: Mode, workload: str, sizes: Sizes, systems: Sequence[str]
) -> Iterator[Measurement]:
    for number in range(sizes.rounds.get(mode, 0)):
        for setting in _settings(mode, sizes):
            for system in systems:
                num_requests = _num_requests(mode, workload, system, sizes, setting)
                yield Measurement(
                    mode=mode,
                    workload=workload,
                    system=system,
                    round=number,
                    num_requests=num_requests,
                    setting=setting,
                    seconds=_seconds(mode, workload, system, sizes, setting, num_requests),
                )


def _settings(mode: Mode, sizes: Sizes) -> list[dict[str, Any]]:
    if mode == "offline":
        return [{}] if sizes.offline else []
    if mode == "steps":
        return [{"rows": rows} for rows in sizes.steps]
    if mode == "closed":
        return [{"concurrency": concurrency} for concurrency in sizes.closed]
    return [{"of": of, "share": share, "open_s": sizes.open_s} for of, share in sizes.open_rates]


def _num_requests(
    mode: Mode, workload: str, system: str, sizes: Sizes, setting: Mapping[str, Any]
) -> int:
    if mode == "offline":
        return sizes.offline
    if mode != "closed":
        return 0
    concurrency = setting["concurrency"]
    each = request_seconds(workload, system, concurrency)
    # Fewer than clients would be another concurrency: then it is left out.
    fitting = min(sizes.closed[concurrency], int(sizes.most_s / each))
    return fitting if fitting >= concurrency else 0


def _seconds(
    mode: Mode,
    workload: str,
    system: str,
    sizes: Sizes,
    setting: Mapping[str, Any],
    num_requests: int,
) -> float:
    if system.startswith("ctranslate2") and WORKLOADS[workload].checkpoint in _PAIRS:
        return 0.0
    if mode == "steps":
        return _STEPS_S
    if mode == "open":
        return sizes.open_s + _LOAD_S if _can_serve(setting, workload, system) else 0.0
    concurrency = setting.get("concurrency", num_requests)
    seconds = num_requests * request_seconds(workload, system, concurrency)
    return seconds + (_LOAD_S if mode == "closed" and num_requests else 0.0)


def _can_serve(setting: Mapping[str, Any], workload: str, system: str) -> bool:
    """Whether a rate of an open loop is within a system's capacity, by the estimates."""
    if setting["of"] == "own":
        return True
    is_ours = setting["of"] == "ours"
    seconds = [
        request_seconds(workload, name, _MANY)
        for name in systems_for("closed")
        if SYSTEMS[name].is_ours == is_ours
    ]
    share: float = setting["share"]
    return share / min(seconds) <= 1 / request_seconds(workload, system, _MANY)


_PAIRS = ("bert2bert", "translate-en-de", "summarize-en")
"""CTranslate2 takes none of these: they cost it no time."""
_MANY = 32
_STEPS_S = 4.0
_LOAD_S = 2.0
"""Start of the load generator, and the last answers."""
START_S = 10.0
"""Start of one system."""

_SPEEDS = {
    "tandem": (90e9, 0.015, 2.0),
    "tandem-int8": (130e9, 0.015, 2.0),
    "transformers": (45e9, 0.05, 1.5),
    "fastapi": (25e9, 0.1, 1.0),
    "litserve": (35e9, 0.06, 1.3),
    "ctranslate2": (60e9, 0.01, 1.5),
    "ctranslate2-int8": (90e9, 0.01, 1.5),
    "products": (180e9, 0.0, 1.0),
}
"""Of two cores of a server processor: operations per second, seconds of overhead for a request,
and how many times as long a request takes alone as among many."""


def request_seconds(workload: str, system: str, concurrency: int) -> float:
    """Estimate for one request of many, so many at a time."""
    speed, overhead_s, alone = _SPEEDS[system]
    seconds = WORKLOADS[workload].gflops * 1e9 / speed + overhead_s
    return seconds * (1 + (alone - 1) / concurrency)


def seconds_of(measurements: Sequence[Measurement]) -> float:
    """Estimate for measurements, the start of their systems among them."""
    started = {(each.stage, each.system) for each in measurements}
    return sum(each.seconds for each in measurements) + START_S * len(started)


def describe(measurements: Sequence[Measurement]) -> str:
    """The plan, with its estimate."""
    lines = []
    for (workload, mode), group in groupby(
        measurements, key=lambda each: (each.workload, each.mode)
    ):
        each = list(group)
        minutes = seconds_of(each) / 60
        lines.append(f"{workload:24} {mode:8} {len(each):4} measurements {minutes:7.1f} min")
    return "\n".join([*lines, f"in all about {seconds_of(measurements) / 60:.0f} minutes"])
