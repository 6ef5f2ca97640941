"""Writes docs/performance.md and its plots from the results that are kept beside it."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_report import gpu_section, merged
from benchmarks.growth_report import growth_section, plot_growth
from benchmarks.plots import plot_suite
from benchmarks.report import suite_section
from benchmarks.results import Results

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
FOLDER = PAGE.with_suffix("")
SUITE = FOLDER / "suite.json"
GROWTH = FOLDER / "growth.json"
GPU = FOLDER / "gpu.json"


def publish(
    *, suite: Path | None = None, growth: Path | None = None, gpu: Sequence[Path] = ()
) -> None:
    """Take over the results of runs, where they are named, and write everything anew."""
    FOLDER.mkdir(exist_ok=True)
    for given, kept in ((suite, SUITE), (growth, GROWTH)):
        if given is not None:
            shutil.copyfile(given, kept)
    if gpu:
        replace(merged([Results.read(path) for path in gpu]), path=GPU).write()
    for old in FOLDER.glob("*.svg"):
        old.unlink()
    plot_suite(Results.read(SUITE), FOLDER)
    plot_growth(Results.read(GROWTH), FOLDER)
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def render(page: str) -> str:
    """The page, with the tables of the results that are kept."""
    page = _between(page, "suite", suite_section(Results.read(SUITE)))
    page = _between(page, "gpu", gpu_section(Results.read(GPU)))
    return _between(page, "growth", growth_section(Results.read(GROWTH)))


def _between(page: str, name: str, section: str) -> str:
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE.name}: expected {start} and {end}")
    return f"{before}{start}\n\n{section}\n\n{end}{after}"
