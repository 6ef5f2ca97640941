"""Carries a plan out: systems are up side by side, and one at a time is awake and measured."""

import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from benchmarks.libraries import Knobs
from benchmarks.plan import START_S, Measurement, seconds_of, stages
from benchmarks.processes import RefusedError, started
from benchmarks.results import Results, capacity
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS

_NO_TIME = "no time was left"


class Clock:
    """How much time is left, and how the estimates were so far."""

    def __init__(self, limit_s: float | None, planned_s: float) -> None:
        self._started = time.monotonic()
        self._limit_s = limit_s
        self._planned_s = planned_s
        self._done_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def has_time_for(self, seconds: float) -> bool:
        """Whether something may still begin."""
        return self._limit_s is None or self.elapsed_s + seconds <= self._limit_s

    def done(self, planned_s: float) -> str:
        """Count what was planned as done; gives a line about where we are."""
        self._done_s += planned_s
        left_min = max(0.0, self._planned_s - self._done_s) / 60
        return f"{self.elapsed_s / 60:.1f} min, about {left_min:.1f} to go by the plan"


def run(measurements: Sequence[Measurement], results: Results, limit_s: float | None) -> None:
    """Measure everything for which there is time.

    Args:
        measurements: In order; see `plan`.
        results: Where they go. What an earlier run had no time for is no longer listed there.
        limit_s: Nothing begins that would end later, by the estimate; None for no limit.
    """
    results.missing = [each for each in results.missing if each["reason"] != _NO_TIME]
    for each in measurements:
        if each.is_too_slow:
            reason = f"concurrency {each.setting['concurrency']} would take too long"
            results.leave_out(each.workload, each.system, each.mode, reason)
    feasible = [each for each in measurements if not each.is_too_slow]
    clock = Clock(limit_s, seconds_of(feasible))
    for stage in stages(feasible):
        start_s = START_S * len({each.process for each in stage})
        if not clock.has_time_for(start_s):
            _no_time(results, stage)
            continue
        with ExitStack() as stack:
            up = _start_all(stage, results, stack)
            clock.done(start_s)
            _take_all([each for each in stage if each.process in up], up, results, clock)
    results.write()


def resumed(measurements: Sequence[Measurement], results: Results) -> list[Measurement]:
    """What results lack of a plan."""
    known = {
        _key(each["mode"], each["workload"], each["system"], each["round"], each["setting"])
        for each in results.measured
    }
    return [
        each
        for each in measurements
        if _key(each.mode, each.workload, each.system, each.round, each.setting) not in known
    ]


def _key(
    mode: str, workload: str, system: str, number: int, setting: Mapping[str, Any]
) -> tuple[str, str, str, int, str]:
    return mode, workload, system, number, _named(setting)


def _named(setting: Mapping[str, Any]) -> str:
    """A setting as it was planned, without the rate that followed from what was measured."""
    return str(sorted((name, value) for name, value in setting.items() if name != "rate"))


def _start_all(
    stage: Sequence[Measurement], results: Results, stack: ExitStack
) -> dict[tuple[str, Knobs], Any]:
    """The processes of a stage; the first of its workloads warms them up."""
    up: dict[tuple[str, Knobs], Any] = {}
    refused: dict[tuple[str, Knobs], str] = {}
    for each in stage:
        if each.process not in up and each.process not in refused:
            try:
                system, knobs = each.process
                up[each.process] = stack.enter_context(
                    started(each.mode, system, each.workload, knobs)
                )
            except RefusedError as error:
                refused[each.process] = str(error)
        if each.process in refused:
            results.leave_out(each.workload, each.system, each.mode, refused[each.process])
    return up


def _take_all(
    measurements: Sequence[Measurement],
    up: Mapping[tuple[str, Knobs], Any],
    results: Results,
    clock: Clock,
) -> None:
    """Measurements in turn.

    Once there is no time for one of a workload, there is none for its later ones: rates follow
    from capacities, which must be whole.
    """
    cut: set[str] = set()
    for each in measurements:
        if each.workload in cut or not clock.has_time_for(each.seconds):
            cut.add(each.workload)
            _no_time(results, [each])
        else:
            _take(each, up[each.process], results, clock)


def _take(each: Measurement, process: Any, results: Results, clock: Clock) -> None:
    """One measurement, unless there is a reason against it."""
    setting = dict(each.setting)
    if each.mode == "open":
        setting["rate"] = _rate(each, results)
        if _is_measured(each, setting["rate"], results):
            return  # the best system's own capacity is the one of its side
    reason = _reason_against(each, setting, results)
    if reason:
        results.leave_out(each.workload, each.system, each.mode, reason)
        return
    found = measure(each, process, setting)
    results.add(each.record(setting) | found)
    line = f"{each.mode} {each.workload} {each.system} {setting or ''}: {found['seconds']:.3g} s"
    print(f"{line}, planned {each.seconds:.0f}; {clock.done(each.seconds)}", file=sys.stderr)


def measure(each: Measurement, process: Any, setting: Mapping[str, Any]) -> dict[str, Any]:
    """What comes out of one measurement.

    Args:
        each: What is measured.
        process: A `Worker`, or for loops a `Server`.
        setting: Of the measurement, with the rate of an open loop.
    """
    items = WORKLOADS[each.workload].items
    if each.mode == "offline":
        answer: dict[str, Any] = process.ask(
            workload=each.workload, decode=each.num_requests, seed=each.round
        )
        return answer | {"num_requests": each.num_requests}
    if each.mode == "steps":
        stepped: dict[str, Any] = process.ask(workload=each.workload, steps=setting["rows"])
        return stepped
    # New texts in every workload, round and setting: nobody shall answer from memory.
    seed = hash_of(each, setting)
    if each.mode == "closed":
        sent: dict[str, Any] = process.send(
            items(each.num_requests, seed), concurrency=setting["concurrency"]
        )
        return sent
    arrivals = poisson(setting["rate"], setting["open_s"], seed)
    opened: dict[str, Any] = process.send(items(len(arrivals), seed), arrivals_s=arrivals)
    return opened


def hash_of(each: Measurement, setting: Mapping[str, Any]) -> int:
    """A seed that every system shares, however it is set up, and no other workload or round."""
    shared = {name: value for name, value in setting.items() if name != "alone"}
    name = f"{each.workload} {each.mode} {each.round} {_named(shared)}"
    return random.Random(name).getrandbits(32)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of arrival, at least one."""
    rng = random.Random(seed)
    found = [rng.expovariate(rate)]
    while found[-1] < seconds:
        found.append(found[-1] + rng.expovariate(rate))
    return found[:-1] or found


def _rate(each: Measurement, results: Results) -> float:
    """Requests per second of an open loop; 0 where the capacity is not known."""
    of, share = each.setting["of"], each.setting["share"]
    systems = [each.system]
    if of != "own":
        systems = [name for name, system in SYSTEMS.items() if system.is_ours == (of == "ours")]
    most = max(capacity(results, each.workload, name) for name in systems)
    return float(round(share * most, 3))


def _is_measured(each: Measurement, rate: float, results: Results) -> bool:
    """Whether a system was measured at a rate in this round."""
    return any(
        known["system"] == each.system and known["setting"]["rate"] == rate
        for series in results.of("open", each.workload)
        for known in series.rounds
        if known["round"] == each.round
    )


def _reason_against(each: Measurement, setting: Mapping[str, Any], results: Results) -> str:
    if each.mode != "open":
        return ""
    own = capacity(results, each.workload, each.system)
    if not setting["rate"] or not own:
        return "no capacity was measured"
    if setting["rate"] > own:
        return f"further rates are beyond its capacity of {own:.2f} requests/s"
    return ""


def _no_time(results: Results, measurements: Sequence[Measurement]) -> None:
    for each in measurements:
        results.leave_out(each.workload, each.system, each.mode, _NO_TIME)


def settings_of(systems: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The knobs of systems, for the record."""
    return {
        name: {
            "knobs": asdict(SYSTEMS[name].knobs),
            "offline": asdict(SYSTEMS[name].knobs_for("offline", {})),
            "alone": asdict(SYSTEMS[name].knobs_for("closed", {"alone": True})),
        }
        for name in systems
    }
