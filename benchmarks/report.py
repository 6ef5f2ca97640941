"""The tables of docs/performance.md, from a results file: no figure is typed by hand."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.results import FEWEST, Results, Series, capacity, figure
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS

UNLOADED_FACTOR = 3
"""An answer is in time within so many times the unloaded latency."""
_LIMIT = "products"
_INT8 = "-int8"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], num_words: int = 1) -> str:
    """A table; all columns but the first ones hold figures."""
    rule = ["---"] * num_words + ["---:"] * (len(head) - num_words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def where_from(about: dict[str, object]) -> str:
    """Date, machine and versions of a run, in a sentence."""
    machine, versions = about["machine"], about["versions"]
    assert isinstance(machine, dict)
    assert isinstance(versions, dict)
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    if about.get("commit"):
        packages += f". Commit {about['commit']}"
    kind = ", ".join(filter(None, (machine["architecture"], machine.get("instructions"))))
    return (
        f"{about['date']}, {machine['cores']} cores of {machine['processor']} "
        f"({kind}), {machine['memory_gib']} GiB, threads wait: "
        f"{machine['wait_policy']}, load average before: {machine['load_before']}. {packages}."
    )


def suite_section(results: Results, plots: str) -> str:
    """Everything that a run of the suite has to show.

    Args:
        results: Of the run.
        plots: The folder of its plots, as the page names it.
    """
    limits = " and then ".join(f"{minutes:g}" for minutes in results.about.get("minutes", []))
    plan = f"Plan `{results.about['plan']}`" + (f", within {limits} minutes" if limits else "")
    parts = [f"{plan}. {where_from(results.about)}"]
    for workload in sorted(results.workloads, key=list(WORKLOADS).index):
        parts.append(f"### `{workload}`\n\n{_sentence(results.about['workloads'][workload])}")
        parts += [part for part in _parts(results, workload, plots) if part]
    return "\n\n".join(parts)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _parts(results: Results, workload: str, plots: str) -> list[str]:
    return [
        _titled(_offline_title(results, workload), offline_table(results, workload)),
        _titled("One decoder step.", steps_table(results, workload)),
        _titled("Closed loop, over HTTP.", closed_table(results, workload)),
        _picture(results, workload, "closed", "throughput", plots),
        _titled(_open_title(results, workload), open_table(results, workload)),
        _picture(results, workload, "open", "latency", plots),
        _titled(
            f"Sustained rate: p95 within {UNLOADED_FACTOR} times the system's own unloaded p95.",
            sustained_table(results, workload),
        ),
        missing_list(results, workload),
        bottleneck_list(results, workload),
    ]


def _titled(title: str, table: str) -> str:
    return f"{title}\n\n{table}" if table else ""


def _picture(results: Results, workload: str, mode: str, what: str, plots: str) -> str:
    if not any(results.of(mode, workload)):
        return ""
    return f"![{what} of `{workload}`]({plots}/{workload}-{what}.svg)"


def ours(series: Iterable[Series], system: str) -> Series | None:
    """The series of Tandem that a system is compared with: in int8 where both have that."""
    by_system = {each.system: each for each in series}
    if system.endswith(_INT8) and f"tandem{_INT8}" in by_system:
        return by_system[f"tandem{_INT8}"]
    return by_system.get("tandem")


def _ratio(found: Sequence[Series], each: Series, of: Callable[[Series], list[float]]) -> str:
    """Tandem's median to that of a system."""
    tandem = ours(found, each.system)
    if tandem is None:
        return ""
    return figure(statistics.median(of(tandem)) / statistics.median(of(each)))


def _offline_title(results: Results, workload: str) -> str:
    counts = {
        each["num_requests"] for series in results.of("offline", workload) for each in series.rounds
    }
    return f"Offline: {' or '.join(map(str, sorted(counts)))} requests at once."


def offline_table(results: Results, workload: str) -> str:
    """Tokens per second; Tandem's ratio to the system; the share of the limit."""
    found = list(results.of("offline", workload))
    if not found:
        return ""
    limit = next((each for each in found if each.system == _LIMIT), None)
    rows = []
    for each in found:
        median = statistics.median(each.tokens_per_s)
        ratio = _ratio(found, each, lambda series: series.tokens_per_s)
        share = f"{median / statistics.median(limit.tokens_per_s):.0%}" if limit else ""
        rows.append(
            [_named(each.system), figure(median), each.spread(each.tokens_per_s), ratio, share]
        )
    head = ["system", "tokens/s", "least to most", "Tandem's ratio to it", "of the limit"]
    return markdown(head, rows)


def steps_table(results: Results, workload: str) -> str:
    """Milliseconds of a step beside those of its matrix products."""
    found = list(results.of("steps", workload))
    limits = {
        each.setting["rows"]: statistics.median(each.seconds)
        for each in found
        if each.system == _LIMIT
    }
    rows = []
    for each in sorted(found, key=lambda each: (each.setting["rows"], each.system)):
        limit, median = limits.get(each.setting["rows"]), statistics.median(each.seconds)
        if each.system != _LIMIT and limit:
            cells = [each.setting["rows"], each.system]
            figures = [figure(1000 * median), figure(1000 * limit), f"{limit / median:.0%}"]
            rows.append([str(cell) for cell in [*cells, *figures]])
    head = ["rows", "system", "step, ms", "its products alone, ms", "of the limit"]
    return markdown(head, rows, num_words=2) if rows else ""


def closed_table(results: Results, workload: str) -> str:
    """Throughput and latency over concurrency."""
    found = list(results.of("closed", workload))
    by_concurrency: dict[int, list[Series]] = defaultdict(list)
    for each in found:
        by_concurrency[each.setting["concurrency"]].append(each)
    rows = []
    for concurrency, alike in sorted(by_concurrency.items()):
        for each in alike:
            median = statistics.median(each.requests_per_s)
            ratio = _ratio(alike, each, lambda series: series.requests_per_s)
            rows.append(
                [
                    str(concurrency),
                    f"{each.system}, set up for one" if each.is_alone else each.system,
                    figure(median),
                    each.spread(each.requests_per_s),
                    ratio,
                    *_latencies(each),
                ]
            )
    head = ["clients", "system", "requests/s", "least to most", "Tandem's ratio to it"]
    return markdown([*head, *_LATENCIES], rows, num_words=2) if rows else ""


_WHOSE = {"peer": "best peer's", "ours": "our", "own": "its own"}
_LATENCIES = ("answers", "p50 ms", "p95 ms", "p99 ms", "failed")


def _latencies(series: Series) -> list[str]:
    """The cells of `_LATENCIES`; a percentile of too few answers is left empty."""
    percentiles = [series.percentile_s(percent) for percent in FEWEST]
    shown = ["" if each is None else _ms(each) for each in percentiles]
    return [str(len(series.latencies_s)), *shown, str(series.num_failed)]


def _open_title(results: Results, workload: str) -> str:
    return (
        "Open loop, over HTTP: Poisson arrivals. Goodput: answers per second that came within "
        f"{_ms(time_bound_s(results, workload))} ms, {UNLOADED_FACTOR} times the best unloaded p95."
    )


def open_table(results: Results, workload: str) -> str:
    """Latency and goodput over the rate of arrivals."""
    bound_s = time_bound_s(results, workload)
    rows = [
        [
            figure(each.setting["rate"]),
            f"{each.setting['share']:.0%} of {_WHOSE[each.setting['of']]} capacity",
            each.system,
            figure(statistics.median(each.requests_per_s)),
            figure(goodput(each, bound_s)),
            *_latencies(each),
        ]
        for each in sorted(results.of("open", workload), key=lambda each: each.setting["rate"])
    ]
    head = ["requests/s", "which is", "system", "answered/s", "goodput/s", *_LATENCIES]
    return markdown(head, rows, num_words=3) if rows else ""


def goodput(series: Series, bound_s: float) -> float:
    """Answers per second that came in time, over all rounds."""
    in_time = sum(latency <= bound_s for latency in series.latencies_s)
    return in_time / sum(series.seconds)


def unloaded_p95_s(results: Results, workload: str, system: str) -> float | None:
    """95th percentile of the latency at concurrency 1, where it was measured."""
    for each in results.of("closed", workload):
        if each.system == system and each.setting == {"concurrency": 1}:
            return each.percentile_s(95)
    return None


def time_bound_s(results: Results, workload: str) -> float:
    """What counts as in time: the same for all systems of a workload."""
    known = [unloaded_p95_s(results, workload, name) for name in SYSTEMS]
    return UNLOADED_FACTOR * min((each for each in known if each is not None), default=float("inf"))


def sustained_table(results: Results, workload: str) -> str:
    """The highest rate at which latencies stay near the unloaded ones."""
    systems = list(dict.fromkeys(each.system for each in results.of("open", workload)))
    rows = []
    for name in systems:
        unloaded = unloaded_p95_s(results, workload, name)
        if unloaded is not None:
            shown = str(sustained_rate(results, workload, name) or "")
            peak = figure(capacity(results, workload, name))
            rows.append([_named(name), _ms(unloaded), shown, peak])
    head = ["system", "unloaded p95 ms", "sustained requests/s", "capacity, requests/s"]
    return markdown(head, rows) if rows else ""


@dataclass(frozen=True)
class Bound:
    """What is known of a figure.

    Attributes:
        words: `at least`, `below`; nothing where the figure itself is known.
        value: Of the figure, or of its bound.
    """

    words: Literal["at least", "below", ""]
    value: float

    def __str__(self) -> str:
        """Words and value."""
        return f"{self.words} {figure(self.value)}".lstrip()


def sustained_rate(results: Results, workload: str, system: str) -> Bound | None:
    """The highest rate at which p95 stays near the unloaded one; None where it was not measured."""
    unloaded = unloaded_p95_s(results, workload, system)
    points = sorted(
        (each.setting["rate"], p95)
        for each in results.of("open", workload)
        if each.system == system and (p95 := each.percentile_s(95)) is not None
    )
    return sustained(points, UNLOADED_FACTOR * unloaded) if points and unloaded else None


def sustained(points: Sequence[tuple[float, float]], bound_s: float) -> Bound:
    """Where p95 over rate, measured at some rates, crosses a bound, on the line between two."""
    before: tuple[float, float] | None = None
    for rate, p95 in points:
        if p95 > bound_s:
            if before is None:
                return Bound("below", rate)
            share = (bound_s - before[1]) / (p95 - before[1])
            return Bound("", before[0] + share * (rate - before[0]))
        before = (rate, p95)
    return Bound("at least", points[-1][0])


def sweep_section(results: Results) -> str:
    """What became of each setting of the peers, the best first."""
    found = [series for mode in ("offline", "closed") for series in results.of(mode)]
    by_system: dict[tuple[str, str, int | None], list[Series]] = defaultdict(list)
    for each in found:
        clients = each.setting.get("concurrency")
        by_system[each.workload, each.system, clients].append(each)
    rows = [
        [
            f"`{workload}`",
            system,
            "all at once" if clients is None else f"{clients} clients",
            "yes" if _is_chosen(results, each) else "",
            *(str(each.setting[name]) for name in ("num_workers", "num_threads")),
            str(each.setting["max_batch_size"]),
            f"{each.setting['length_slack']:.0%}",
            f"{each.setting['wait_ms']:g}",
            figure(statistics.median(each.tokens_per_s)),
            each.spread(each.tokens_per_s),
        ]
        for (workload, system, clients), alike in by_system.items()
        for each in sorted(alike, key=lambda each: -statistics.median(each.tokens_per_s))
    ]
    head = ["workload", "system", "requests", "chosen", "batches side by side", "threads of each"]
    head += ["batch size", "slack", "wait, ms", "tokens/s", "least to most"]
    return f"{where_from(results.about)}\n\n{markdown(head, rows, num_words=4)}"


def _is_chosen(results: Results, series: Series) -> bool:
    """Whether the suite measures a system with these settings."""
    of_mode = "offline" if series.rounds[0]["mode"] == "offline" else "knobs"
    knobs: dict[str, object] = results.about["systems"][series.system][of_mode]
    return knobs.items() <= series.setting.items()


def missing_list(results: Results, workload: str) -> str:
    """What was not measured, and why."""
    by_reason: dict[tuple[str, str], list[str]] = defaultdict(list)
    for each in results.missing:
        if each["workload"] == workload:
            by_reason[each["system"], each["reason"]].append(each["mode"])
    lines = [
        f"- {system}, {' and '.join(dict.fromkeys(modes))}: {reason}."
        for (system, reason), modes in by_reason.items()
    ]
    return "\n".join(["Not measured:", "", *lines]) if lines else ""


def bottleneck_list(results: Results, workload: str) -> str:
    """Where the load generator, not the system, may have set the pace."""
    held_up = [
        f"- {each.system}, {mode}, {_setting(each)}"
        for mode in ("closed", "open")
        for each in results.of(mode, workload)
        if each.sender_was_bottleneck
    ]
    if not held_up:
        return ""
    return "\n".join(["The load generator was late or busy itself:", "", *held_up])


def _setting(series: Series) -> str:
    return ", ".join(f"{name} {value}" for name, value in series.setting.items())


def _named(system: str) -> str:
    return "matrix products alone (the limit)" if system == _LIMIT else system


def _ms(seconds: float) -> str:
    return figure(1000 * seconds)
