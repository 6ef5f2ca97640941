"""Plots of results, as SVG that is the same for the same results."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.results import Results

_SIZE = (7.0, 4.0)
Curve = Sequence[tuple[float, float]]


def plot(path: Path, curves: Mapping[str, Curve], x: str, y: str, *, is_log: bool = True) -> None:
    """A line for each named curve; both axes logarithmic where values span orders of magnitude."""
    with mpl.rc_context({"svg.hashsalt": "tandem", "svg.fonttype": "none", "font.size": 9}):
        drawing = Figure(figsize=_SIZE, layout="constrained")
        axes = drawing.subplots()
        for name, points in curves.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, label=name)
        if is_log:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)
        drawing.savefig(path, format="svg", metadata={"Date": None})


def plot_suite(results: Results, folder: Path) -> list[Path]:
    """Throughput over concurrency and latency over rate, for each workload that has them."""
    paths = []
    for workload in results.workloads:
        throughput = throughput_curves(results, workload)
        if throughput:
            paths.append(folder / f"{workload}-throughput.svg")
            plot(paths[-1], throughput, "clients (closed loop)", "requests/s")
        latency = latency_curves(results, workload)
        if latency:
            paths.append(folder / f"{workload}-latency.svg")
            plot(paths[-1], latency, "requests/s (open loop)", "p95 latency, s")
    return paths


def throughput_curves(results: Results, workload: str) -> dict[str, Curve]:
    """Median requests per second over the number of clients, for each system."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in results.of("closed", workload):
        if each.is_alone:
            continue
        median = statistics.median(each.requests_per_s)
        curves[each.system].append((each.setting["concurrency"], median))
    return dict(curves)


def latency_curves(results: Results, workload: str) -> dict[str, Curve]:
    """95th percentile of the latency over the rate of arrivals, for each system."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in results.of("open", workload):
        p95 = each.percentile_s(95)
        if p95 is not None:
            curves[each.system].append((each.setting["rate"], p95))
    return dict(curves)
