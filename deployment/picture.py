"""The dashboard's queries, plotted from a Prometheus: what Grafana would show."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes

from deployment.panels import PANELS, Panel, of_everything

_COLUMNS = 3
_STEP_S = 5
_UNITS = {"s": "seconds", "reqps": "per second", "percentunit": "share", "short": ""}


def draw(prometheus: str, file: Path, seconds: int) -> None:
    """Plot every panel over the last seconds into a PNG file.

    Args:
        prometheus: Its address.
        file: To be written.
        seconds: How far back.

    Raises:
        httpx.HTTPError: Prometheus does not answer, or refuses a query.
    """
    mpl.use("Agg")
    rows = -(-len(PANELS) // _COLUMNS)
    figure, grid = pyplot.subplots(
        rows, _COLUMNS, figsize=(6 * _COLUMNS, 2.9 * rows), layout="constrained"
    )
    with httpx.Client(base_url=prometheus) as client:
        for panel, axes in zip(PANELS, grid.flat, strict=False):
            _draw_panel(panel, axes, client, seconds)
    figure.savefig(file, dpi=70)
    pyplot.close(figure)


def _draw_panel(panel: Panel, axes: Axes, client: httpx.Client, seconds: int) -> None:
    now = time.time()
    for legend, query in panel.queries.items():
        for labels, points in _series(client, query, now - seconds, now):
            times, values = [at - now for at, _ in points], [value for _, value in points]
            axes.plot(times, values, label=_filled(legend, labels))
    axes.set(title=panel.title, ylabel=_UNITS.get(panel.unit, panel.unit), xlim=(-seconds, 0))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7, loc="upper left")


def _filled(legend: str, labels: Mapping[str, str]) -> str:
    """`{{model}}` is the label `model`, as in Grafana."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def _series(
    client: httpx.Client, query: str, start: float, end: float
) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
    parameters: dict[str, Any] = {
        "query": of_everything(query, "30s"),
        "start": start,
        "end": end,
        "step": _STEP_S,
    }
    response = client.get("/api/v1/query_range", params=parameters).raise_for_status()
    return [
        (each["metric"], [(at, float(value)) for at, value in each["values"]])
        for each in response.json()["data"]["result"]
    ]
