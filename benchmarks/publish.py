"""Writes docs/performance.md and its plots from the results that are kept beside it."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.aims import aims_section
from benchmarks.gpu_report import gpu_section, merged
from benchmarks.growth_report import growth_section, plot_growth
from benchmarks.plots import plot_suite
from benchmarks.report import suite_section, sweep_section
from benchmarks.results import Results

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
FOLDER = PAGE.with_suffix("")
KINDS = {"vnni": "with VNNI", "avx2": "without VNNI"}
"""Of processors, with instructions for sums of byte products or not; each keeps its last run."""
GROWTH = FOLDER / "growth.json"
GPU = FOLDER / "gpu.json"
SWEEP = FOLDER / "sweep.json"


def publish(
    *,
    suite: Path | None = None,
    growth: Path | None = None,
    sweep: Path | None = None,
    gpu: Sequence[Path] = (),
) -> None:
    """Take over the results of runs, where they are named, and write everything anew."""
    if suite is not None:
        kept = suite_of(_kind(Results.read(suite)))
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(suite, kept)
    for path, kept in ((growth, GROWTH), (sweep, SWEEP)):
        if path is not None:
            shutil.copyfile(path, kept)
    if gpu:
        replace(merged([Results.read(path) for path in gpu]), path=GPU).write()
    suites = {kind: Results.read(suite_of(kind)) for kind in KINDS}
    for old in FOLDER.glob("**/*.svg"):
        old.unlink()
    for kind, results in suites.items():
        plot_suite(results, suite_of(kind).parent)
    plot_growth(Results.read(GROWTH), FOLDER)
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def suite_of(kind: str) -> Path:
    """Where the last run on a kind of processor is kept, its plots beside it."""
    return FOLDER / kind / "suite.json"


def _kind(results: Results) -> str:
    instructions = results.about["machine"]["instructions"]
    if "avx2" not in instructions:
        raise ValueError(f"machine.instructions: expected avx2 among them, found {instructions!r}")
    return "vnni" if "vnni" in instructions else "avx2"


def render(page: str) -> str:
    """The page, with the tables of the results that are kept."""
    suites = {kind: Results.read(suite_of(kind)) for kind in KINDS}
    gpu = Results.read(GPU)
    sections = {
        "aims": aims_section({KINDS[kind]: results for kind, results in suites.items()}, gpu),
        **{kind: suite_section(suites[kind], f"{FOLDER.name}/{kind}") for kind in KINDS},
        "sweep": sweep_section(Results.read(SWEEP)),
        "growth": growth_section(Results.read(GROWTH)),
        "gpu": gpu_section(gpu),
    }
    for name, section in sections.items():
        page = _between(page, name, section)
    return page


def _between(page: str, name: str, section: str) -> str:
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE.name}: expected {start} and {end}")
    return f"{before}{start}\n\n{section}\n\n{end}{after}"
