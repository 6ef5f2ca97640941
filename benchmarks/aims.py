"""What Tandem is out for, beside what the last runs show."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report import UNLOADED_FACTOR, Bound, markdown, sustained_rate
from benchmarks.results import Results, Series, figure
from benchmarks.systems import SYSTEMS

Found = Bound | float | None
"""A figure, or what it is at least; None where it was not measured."""


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

    def cell(self, results: Results) -> str:
        """The figure of a run, and whether that is enough."""
        found = self.find(results)
        if found is None:
            return "not measured"
        if isinstance(found, Bound):
            return f"{found}, {'met' if found.value >= self.bound else 'open'}"
        is_met = found <= self.bound if self.is_most else found >= self.bound
        return f"{figure(found)}, {'met' if is_met else '**missed**'}"

    @property
    def shown_bound(self) -> str:
        """The bound, with its direction."""
        shown = f"{self.bound:,.0f}" if self.bound > 999 else f"{self.bound:g}"
        return f"at {'most' if self.is_most else 'least'} {shown}"


def _one(found: Iterator[Series], system: str, **setting: object) -> Series | None:
    return next((each for each in found if (each.system, each.setting) == (system, setting)), None)


def _offline(workload: str, system: str, other: str) -> Callable[[Results], Found]:
    def find(results: Results) -> Found:
        both = [_one(results.of("offline", workload), name) for name in (system, other)]
        if None in both:
            return None
        ours, theirs = (statistics.median(each.tokens_per_s) for each in both if each)
        return ours / theirs

    return find


def _alone(workload: str, system: str, other: str) -> Callable[[Results], Found]:
    """Median latency of one client to that of another system, as it is set up best."""

    def find(results: Results) -> Found:
        by_system: dict[str, list[float]] = {system: [], other: []}
        for each in results.of("closed", workload):
            if each.setting["concurrency"] == 1 and each.system in by_system:
                by_system[each.system].append(each.percentile_s(50))
        if not all(by_system.values()):
            return None
        return min(by_system[system]) / min(by_system[other])

    return find


def _p95(workload: str, system: str, share: float) -> Callable[[Results], Found]:
    """p95 to that of the peer whose p95 is the least, at a share of the best peer's capacity."""

    def find(results: Results) -> Found:
        by_system = {
            each.system: each.percentile_s(95)
            for each in results.of("open", workload)
            if (each.setting["of"], each.setting["share"]) == ("peer", share)
        }
        peers = [p95 for name, p95 in by_system.items() if not SYSTEMS[name].is_ours]
        return by_system[system] / min(peers) if peers and system in by_system else None

    return find


def _sustained(workload: str, system: str, other: str) -> Callable[[Results], Found]:
    def find(results: Results) -> Found:
        ours, theirs = (sustained_rate(results, workload, name) for name in (system, other))
        if ours is None or theirs is None or ours.words == "below" or theirs.words == "at least":
            return None
        ratio = ours.value / theirs.value
        return Bound("at least", ratio) if ours.words or theirs.words else ratio

    return find


def _step(workload: str, rows: int) -> Callable[[Results], Found]:
    """Share of the limit of the matrix products, in percent."""

    def find(results: Results) -> Found:
        both = [
            _one(results.of("steps", workload), name, rows=rows) for name in ("products", "tandem")
        ]
        if None in both:
            return None
        limit, ours = (statistics.median(each.seconds) for each in both if each)
        return 100 * limit / ours

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


def _rates(workload: str, system: str, mode: str) -> Callable[[Results], list[float]]:
    def find(results: Results) -> list[float]:
        return [
            statistics.median(each["tokens_per_s"])
            for each in results.measured
            if (each["workload"], each["system"], each["mode"]) == (workload, system, mode)
        ]

    return find


def _gpu_rate(workload: str) -> Callable[[Results], Found]:
    return lambda results: max(_rates(workload, "tandem", "offline")(results), default=None)


def _gpu_ratio(workload: str, mode: str) -> Callable[[Results], Found]:
    """To `generate()` at its better batch size."""

    def find(results: Results) -> Found:
        ours, theirs = (
            _rates(workload, system, mode)(results) for system in ("tandem", "transformers")
        )
        return max(ours) / max(theirs) if ours and theirs else None

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
    for workload in (greedy, beams):
        about = f"`{workload}`, a step: times what its bytes take"
        yield Aim(about, 3, _gpu_step(workload), is_most=True)


def aims_section(suites: Mapping[str, Results], gpu: Results) -> str:
    """Every aim, beside the figure of the last run on each kind of processor and on a GPU.

    Args:
        suites: Of the processors, by the head of their column.
        gpu: Of the GPU.
    """
    on_cpu = _table(list(_on_cpu()), suites)
    on_gpu = _table(list(_on_gpu()), {str(gpu.about["gpu"]): gpu})
    return f"{on_cpu}\n\n{on_gpu}"


def _table(aims: Sequence[Aim], runs: Mapping[str, Results]) -> str:
    rows = [
        [aim.about, aim.shown_bound, *(aim.cell(results) for results in runs.values())]
        for aim in aims
    ]
    return markdown(["figure", "aim", *runs], rows)
