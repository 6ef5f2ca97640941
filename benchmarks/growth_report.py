"""Tables and plots of how cost grows, with the exponent that fits."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import Curve, plot
from benchmarks.report import markdown, where_from
from benchmarks.results import Results, figure

_NAMES = {
    "requests": "requests in flight",
    "source_len": "source length",
    "target_len": "target length",
    "beams": "beams",
    "vocabulary": "vocabulary",
}
_QUANTITIES = {"step_s": ("ms", 1e3), "encode_s": ("ms", 1e3), "memory_bytes": ("MiB", 2**-20)}
_LEAST_POINTS = 3


def curves(results: Results, quantity: str) -> dict[str, Curve]:
    """A quantity over each axis, medians of the rounds."""
    rounds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in results.measured:
        if each["mode"] == "growth":
            rounds[each["axis"]][each["value"]].append(each[quantity])
    return {
        axis: [(value, statistics.median(found)) for value, found in sorted(by_value.items())]
        for axis, by_value in rounds.items()
    }


def exponent(curve: Curve) -> float:
    """`k` of the power law `c * x ** k` that fits the upper half best, on logarithmic axes.

    The lower half shows what does not grow: overhead of a step, memory of a block.
    """
    upper = [point for point in curve if point[1] > 0]
    upper = upper[-max(_LEAST_POINTS, (len(upper) + 1) // 2) :]
    return slope([(math.log(x), math.log(y)) for x, y in upper])


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line that fits best (least squares); not a number for fewer than two points."""
    if len(points) < 2:
        return math.nan
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def growth_section(results: Results) -> str:
    """Everything that a run has to show."""
    base = ", ".join(f"{_NAMES[axis]} {value}" for axis, value in results.about["point"].items())
    parts = [
        where_from(results.about),
        f"One number varies, the others are: {base}. Medians of the rounds.",
        growth_table(results),
        *(
            f"![{quantity} as the work grows](performance/growth-{quantity}.svg)"
            for quantity in ("step", "memory")
        ),
        *(soak_line(each["samples"]) for each in results.measured if each["mode"] == "soak"),
    ]
    return "\n\n".join(parts)


def growth_table(results: Results) -> str:
    """Both ends of each axis, and the exponent of its upper half."""
    by_quantity = {quantity: curves(results, quantity) for quantity in _QUANTITIES}
    rows = []
    for axis in by_quantity["step_s"]:
        cells = [_NAMES[axis], ""]
        for quantity, (_, factor) in _QUANTITIES.items():
            curve = by_quantity[quantity][axis]
            cells[1] = f"{curve[0][0]} to {curve[-1][0]}"
            cells.append(f"{figure(curve[0][1] * factor)} to {figure(curve[-1][1] * factor)}")
            cells.append(figure(exponent(curve)))
        rows.append(cells)
    head = ["what grows", "from, to"]
    for name, unit in (("step", "ms"), ("encoding all sources", "ms"), ("memory", "MiB")):
        head += [f"{name}, {unit}", "exponent"]
    return markdown(head, rows)


def soak_line(samples: Sequence[tuple[int, int]]) -> str:
    """The memory of a soak, and its slope once everything has been seen: the second half."""
    half = samples[len(samples) // 2 :]
    per_request = slope(half)
    return (
        f"Soak: {samples[-1][0]:,} requests of random lengths and widths, 32 in flight, 1 in 50 "
        f"steps cancels one. Resident memory was {half[0][1] / 2**20:.1f} MiB half-way and "
        f"{half[-1][1] / 2**20:.1f} MiB at the end; the slope of the second half is "
        f"{per_request:.0f} bytes for each request."
    )


def plot_growth(results: Results, folder: Path) -> None:
    """Time of a step and memory over every axis, relative to where it starts."""
    for quantity, name, unit in (
        ("step_s", "step", "time of a step"),
        ("memory_bytes", "memory", "memory"),
    ):
        relative = {
            _NAMES[axis]: [(x / curve[0][0], y / curve[0][1]) for x, y in curve]
            for axis, curve in curves(results, quantity).items()
            if curve[0][1] > 0
        }
        relative["linear"] = [(1, 1), (512, 512)]
        plot(
            folder / f"growth-{name}.svg",
            relative,
            "times as much work as the least",
            f"times as much {unit}",
        )
