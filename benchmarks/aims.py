"""What Tandem is out for, beside what the last runs show.

An open loop and a step are shown for the workloads that the quick plan has them for.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from benchmarks.gpu_report import best_rates
from benchmarks.report import UNLOADED_FACTOR, Bound, markdown, sustained_rate
from benchmarks.results import Results, Series, capacity
from benchmarks.systems import SYSTEMS

Found = Bound | float | None
"""A figure, or what it is at least or below; None where it was not measured."""
Figures = Callable[[Series], list[float]]
"""Of each round."""


@dataclass(frozen=True)
class Aim:
    """A figure to be reached.

    Attributes:
        about: What it is.
        bound: To be reached.
        is_most: Whether less is better.
        find: The figure in the results of a run.
    """

    about: str
    bound: float
    find: Callable[[Results], Found]
    is_most: bool = False

    def cell(self, results: Results, *, is_judged: bool = True) -> str:
        """The figure of a run, and whether that is enough."""
        found = self.find(results)
        if found is None:
            return "not measured"
        known = found if isinstance(found, Bound) else Bound("", found)
        shown = "beyond its capacity" if known.value == inf else str(known)
        return f"{shown}, {self._verdict(known)}" if is_judged else shown

    def _verdict(self, known: Bound) -> str:
        is_met = known.value <= self.bound if self.is_most else known.value >= self.bound
        proves_met = (known.words == "below") == self.is_most
        if known.words and is_met != proves_met:
            return "open"
        return "met" if is_met else "**missed**"

    @property
    def shown_bound(self) -> str:
        """The bound, with its direction."""
        shown = f"{self.bound:,.0f}" if self.bound > 999 else f"{self.bound:g}"
        return f"at {'most' if self.is_most else 'least'} {shown}"


def _median(
    results: Results, mode: str, workload: str, system: str, figures: Figures, **setting: object
) -> float | None:
    """Median over the rounds of a system in a setting."""
    for each in results.of(mode, workload):
        if (each.system, each.setting) == (system, setting):
            return statistics.median(figures(each))
    return None


def _offline(workload: str, system: str, other: str) -> Callable[[Results], Found]:
    def find(results: Results) -> Found:
        ours, theirs = (
            _median(results, "offline", workload, name, lambda each: each.tokens_per_s)
            for name in (system, other)
        )
        return ours / theirs if ours and theirs else None

    return find


def _step(workload: str, rows: int) -> Callable[[Results], Found]:
    """Share of the limit of the matrix products, in percent."""

    def find(results: Results) -> Found:
        limit, ours = (
            _median(results, "steps", workload, name, lambda each: each.seconds, rows=rows)
            for name in ("products", "tandem")
        )
        return 100 * limit / ours if limit and ours else None

    return find


def _alone(workload: str, system: str, other: str) -> Callable[[Results], Found]:
    """Median latency of one client to that of another system, as it is set up best."""

    def find(results: Results) -> Found:
        by_system: dict[str, list[float]] = {system: [], other: []}
        for each in results.of("closed", workload):
            median = each.percentile_s(50)
            if each.setting["concurrency"] == 1 and each.system in by_system and median:
                by_system[each.system].append(median)
        if not all(by_system.values()):
            return None
        return min(by_system[system]) / min(by_system[other])

    return find


def _p95(workload: str, system: str, share: float) -> Callable[[Results], Found]:
    """p95 to that of the peer whose p95 is the least, at a share of the best peer's capacity.

    Infinite where that is beyond the capacity of the system.
    """

    def find(results: Results) -> Found:
        found = [
            (each, p95)
            for each in results.of("open", workload)
            if (each.setting["of"], each.setting["share"]) == ("peer", share)
            if (p95 := each.percentile_s(95)) is not None
        ]
        peers = [(each, p95) for each, p95 in found if not SYSTEMS[each.system].is_ours]
        if not peers:
            return None
        best, least = min(peers, key=lambda pair: pair[1])
        for each, p95 in found:
            if each.system == system:
                return p95 / least
        return inf if 0 < capacity(results, workload, system) < best.setting["rate"] else None

    return find


def _sustained(workload: str, system: str, other: str) -> Callable[[Results], Found]:
    def find(results: Results) -> Found:
        ours, theirs = (sustained_rate(results, workload, name) for name in (system, other))
        if ours is None or theirs is None:
            return None
        ratio = ours.value / theirs.value
        if ours.words == "below" or theirs.words == "at least":
            is_known = ours.words != "at least" and theirs.words != "below"
            return Bound("below", ratio) if is_known else None
        return Bound("at least", ratio) if ours.words or theirs.words else ratio

    return find


def _on_cpu() -> Iterator[Aim]:
    times = "times as many tokens/s offline as"
    for workload, system, other, bound in (
        ("summarize", "tandem", "transformers", 3.5),
        ("summarize", "tandem", "ctranslate2", 1.5),
        ("summarize", "tandem-int8", "ctranslate2-int8", 1.3),
        ("translate", "tandem", "ctranslate2", 1.2),
        ("translate", "tandem-int8", "ctranslate2-int8", 1.0),
        ("translate-greedy", "tandem", "ctranslate2", 1.0),
        ("translate-greedy", "tandem-int8", "ctranslate2-int8", 1.0),
    ):
        about = f"`{workload}`, {system}: {times} {other}"
        yield Aim(about, bound, _offline(workload, system, other))
    for workload in ("translate", "shipped-translate"):
        for system in ("tandem", "tandem-int8"):
            for share in (0.75, 0.9):
                about = (
                    f"`{workload}`, {system}: p95 to the best peer's at {share:.0%} of its capacity"
                )
                yield Aim(about, 0.5, _p95(workload, system, share), is_most=True)
    within = f"rate sustained with p95 within {UNLOADED_FACTOR} times the unloaded one, to that of"
    for workload, system, other, bound in (
        ("translate", "tandem", "ctranslate2", 1.3),
        ("translate", "tandem-int8", "ctranslate2-int8", 1.3),
        ("translate", "tandem", "litserve", 4.0),
        ("shipped-translate", "tandem", "litserve", 4.0),
    ):
        yield Aim(
            f"`{workload}`, {system}: {within} {other}", bound, _sustained(workload, system, other)
        )
    for system, other in (("tandem", "ctranslate2"), ("tandem-int8", "ctranslate2-int8")):
        about = f"`translate`, {system}: latency of one client, to that of {other}"
        yield Aim(about, 1.1, _alone("translate", system, other), is_most=True)
    for workload in ("translate", "summarize", "bert2bert"):
        for rows in (64, 128):
            about = f"`{workload}`, tandem: percent of the limit, a step of {rows} rows"
            yield Aim(about, 60, _step(workload, rows))


def _gpu_best(results: Results) -> dict[tuple[str, str, str], float]:
    return best_rates(each for each in results.measured if "tokens_per_s" in each)


def _gpu_rate(workload: str) -> Callable[[Results], Found]:
    return lambda results: _gpu_best(results).get((workload, "offline", "tandem"))


def _gpu_ratio(workload: str, mode: str) -> Callable[[Results], Found]:
    """To `generate()` at its better batch size."""

    def find(results: Results) -> Found:
        best = _gpu_best(results)
        ours, theirs = (best.get((workload, mode, name)) for name in ("tandem", "transformers"))
        return ours / theirs if ours and theirs else None

    return find


def _gpu_step(workload: str) -> Callable[[Results], Found]:
    def find(results: Results) -> Found:
        for each in results.measured:
            if (each["workload"], each["mode"]) == (workload, "step"):
                return float(1 / each["fraction_of_limit"])
        return None

    return find


def _on_gpu() -> Iterator[Aim]:
    greedy, beams = "summarize-large-greedy", "summarize-large"
    yield Aim(f"`{greedy}`: tokens/s with 128 in flight", 47_000, _gpu_rate(greedy))
    ratio = "times as many tokens/s as `generate()` at its better batch size"
    yield Aim(f"`{beams}`: {ratio}", 8, _gpu_ratio(beams, "offline"))
    for workload in (greedy, beams):
        about = f"`{workload}`, one request at a time: times as many tokens/s as `generate()`"
        yield Aim(about, 4, _gpu_ratio(workload, "alone"))
    for workload in (greedy, beams, "translate", "translate-greedy", "summarize"):
        about = f"`{workload}`, a step: times what its bytes take"
        yield Aim(about, 3, _gpu_step(workload), is_most=True)


def aims_section(suites: Mapping[str, Results], gpu: Results) -> str:
    """The aims, beside the figure of the last run on each kind of processor and on a GPU.

    A run with other settings of the systems than the newest one is not judged.

    Args:
        suites: Of the processors, by the head of their column.
        gpu: Of the GPU.
    """
    newest = max(suites.values(), key=lambda results: str(results.about["date"]))
    runs: dict[str, tuple[Results, bool]] = {}
    for head, results in suites.items():
        is_judged = results.about["systems"] == newest.about["systems"]
        runs[head if is_judged else f"{head}, other settings"] = (results, is_judged)
    on_cpu = _table(list(_on_cpu()), runs)
    on_gpu = _table(list(_on_gpu()), {str(gpu.about["gpu"]): (gpu, True)})
    return f"{on_cpu}\n\n{on_gpu}"


def _table(aims: Sequence[Aim], runs: Mapping[str, tuple[Results, bool]]) -> str:
    rows = [
        [
            aim.about,
            aim.shown_bound,
            *(aim.cell(results, is_judged=is_judged) for results, is_judged in runs.values()),
        ]
        for aim in aims
    ]
    return markdown(["figure", "aim", *runs], rows)
