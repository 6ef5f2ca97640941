"""What is measured, in which order, and how long that will take."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf
from typing import Any

from benchmarks.libraries import Knobs
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
        closed: Requests by concurrency. With three and more for each client, a loop's begin and
            end, where fewer are there, weigh little.
        one_round_from: So many clients and more have one round of a closed loop: it is long.
        open_rates: See `Rate`.
        open_s: How long requests arrive at each rate.
        rounds: Of each mode.
        most_s: A closed loop that would take longer, by the estimate, is left out: all systems get
            the same requests.
    """

    offline: int = 0
    steps: tuple[int, ...] = ()
    closed: Mapping[int, int] = field(default_factory=dict)
    one_round_from: float = inf
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
    most_s=inf,
)

PLANS: dict[str, dict[str, Sizes]] = {
    "quick": {
        "translate-greedy": Sizes(offline=144, rounds=_QUICK_ROUNDS),
        "translate": Sizes(
            offline=144,
            steps=(16, 64, 128),
            closed={1: 12, 8: 24, 32: 96, 128: 384},
            one_round_from=128,
            open_rates=_rates(_SHARES, (0.75, 0.9), own=(0.25, 0.5)),
            open_s=15.0,
            rounds=_QUICK_ROUNDS,
            most_s=90.0,
        ),
        "translate-even": Sizes(closed={8: 24, 32: 96}, rounds={"closed": 1}, most_s=90.0),
        "summarize": Sizes(offline=16, steps=(64, 128), rounds={"offline": 2, "steps": 1}),
        "bert2bert": Sizes(offline=8, steps=(64, 128), rounds={"offline": 2, "steps": 1}),
        "shipped-translate": Sizes(
            offline=128,
            closed={1: 16, 8: 64, 32: 96, 128: 384},
            open_rates=_rates((0.75, 0.9), (0.75,), own=(0.5,)),
            open_s=15.0,
            rounds={"offline": 2, "closed": 1, "open": 1},
            most_s=45.0,
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
"""`quick` ends within an hour on two cores; `full` takes days; `trial` minutes."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One system, measured once.

    Attributes:
        mode: How.
        workload: Of `WORKLOADS`.
        system: Of `SYSTEMS`.
        round: The systems take turns; counts from 0.
        num_requests: Offline and in a closed loop.
        setting: `{"concurrency": 8}`, `{"of": "peer", "share": 0.75}`, `{"rows": 64}` or nothing;
            `alone` where a server is set up for one client.
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
        """Measurements of one checkpoint share the processes that are up, libraries or servers."""
        return WORKLOADS[self.workload].checkpoint, self.mode in _OF_SERVERS

    @property
    def is_too_slow(self) -> bool:
        """Whether a closed loop would take too long for its system."""
        return self.mode == "closed" and not self.num_requests

    @property
    def process(self) -> tuple[str, Knobs]:
        """What is up for it: a system with its settings."""
        return self.system, SYSTEMS[self.system].knobs_for(self.mode, self.setting)

    def record(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """What results say of it, apart from what came out.

        Args:
            setting: Its own, with what was not known when it was planned.
        """
        names = ("mode", "workload", "system", "round")
        return {name: getattr(self, name) for name in names} | {"setting": dict(setting)}


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
            if number and setting.get("concurrency", 0) >= sizes.one_round_from:
                continue
            for system in systems:
                if setting.get("alone") and SYSTEMS[system].alone is None:
                    continue
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
        alone = [{"concurrency": 1, "alone": True}] if 1 in sizes.closed else []
        return [*({"concurrency": concurrency} for concurrency in sizes.closed), *alone]
    return [{"of": of, "share": share, "open_s": sizes.open_s} for of, share in sizes.open_rates]


def _num_requests(
    mode: Mode, workload: str, system: str, sizes: Sizes, setting: Mapping[str, Any]
) -> int:
    if mode == "offline":
        return sizes.offline
    if mode != "closed":
        return 0
    concurrency = setting["concurrency"]
    num_requests = sizes.closed[concurrency]
    seconds = num_requests * request_seconds(workload, system, concurrency)
    return num_requests if seconds <= sizes.most_s else 0


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
_STEPS_S = 3.0
_LOAD_S = 2.0
"""Start of the load generator, and the last answers."""
WARM_UP_S = 4.0
"""For as long a server answers before it is measured, by the estimate of what a request takes."""
START_S = 10.0
"""Start of one process, with that."""

_SPEEDS = {
    "tandem": (90e9, 0.015, 2.0),
    "tandem-int8": (130e9, 0.015, 2.0),
    "transformers": (45e9, 0.05, 1.5),
    "fastapi": (10e9, 0.1, 1.0),
    "litserve": (20e9, 0.06, 2.0),
    "ctranslate2": (60e9, 0.01, 4.0),
    "ctranslate2-int8": (90e9, 0.01, 4.0),
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
    started = {(each.stage, each.process) for each in measurements}
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
