"""Aims stand beside what the last runs show, and are not called met where nothing was measured."""

from typing import Any

import pytest

from benchmarks.aims import Aim, aims_section
from benchmarks.report import Bound
from benchmarks.results import Results


@pytest.fixture
def suite() -> Results:
    return Results(None, {"date": "2026-01-02", "systems": {"tandem": "as it is"}})


@pytest.fixture
def gpu() -> Results:
    return Results(None, {"gpu": "H200"})


def measured(mode: str, system: str, **more: Any) -> dict[str, Any]:
    known = {"mode": mode, "workload": "translate", "system": system, "round": 0, "setting": {}}
    return known | {"num_failed": 0, "seconds": 1.0} | more


def answers(latency: float, num_answers: int = 16) -> dict[str, Any]:
    return {"latencies_s": [latency] * num_answers}


def at_rate(rate: float, share: float) -> dict[str, Any]:
    return {"setting": {"of": "peer", "share": share, "rate": rate}}


def rows_of(gpu: Results, **suites: Results) -> dict[str, list[str]]:
    """The cells of each row, by their first, without the head of the workload."""
    lines = [line for line in aims_section(suites, gpu).splitlines() if "|" in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name.removeprefix("`translate`, "): rest for name, *rest in reversed(cells)}


P95 = "tandem: p95 to the best peer's at {}% of its capacity"
SUSTAINED = "tandem: rate sustained with p95 within 3 times the unloaded one, to that of {}"


def test_nothing_is_met_that_was_not_measured(suite: Results, gpu: Results) -> None:
    rows = rows_of(gpu, here=suite)
    found = {rest[-1] for rest in rows.values() if rest[0].startswith("at ")}
    assert found == {"not measured"}


def test_figures_are_those_of_the_run(suite: Results, gpu: Results) -> None:
    for system, seconds in (("tandem", 4.0), ("ctranslate2", 5.0)):
        suite.add(measured("offline", system, tokens=1000, seconds=seconds))
    one = {"setting": {"concurrency": 1}}
    for system, latency in (("tandem", 0.2), ("ctranslate2", 0.8), ("litserve", 0.9)):
        suite.add(measured("closed", system, **one, **answers(latency)))
        suite.add(measured("open", system, **at_rate(3.0, 0.75), **answers(3 * latency)))
    alone = {"setting": {"concurrency": 1, "alone": True}}
    suite.add(measured("closed", "ctranslate2", **alone, **answers(0.4)))
    suite.add(measured("steps", "tandem", setting={"rows": 64}, seconds=0.1))
    suite.add(measured("steps", "products", setting={"rows": 64}, seconds=0.05))
    rows = rows_of(gpu, here=suite)
    shown = {
        "tandem: times as many tokens/s offline as ctranslate2": ["at least 1.2", "1.25, met"],
        P95.format(75): ["at most 0.5", "0.25, met"],
        "tandem: latency of one client, to that of ctranslate2": ["at most 1.1", "0.50, met"],
        "tandem: percent of the limit, a step of 64 rows": ["at least 60", "50.0, **missed**"],
    }
    assert {name: rows[name] for name in shown} == shown


def test_a_rate_beyond_our_capacity_is_a_miss(suite: Results, gpu: Results) -> None:
    for system, num_answers in (("tandem", 16), ("ctranslate2", 32)):
        closed = {"setting": {"concurrency": 8}} | answers(0.1, num_answers)
        suite.add(measured("closed", system, **closed))
    suite.add(measured("open", "ctranslate2", **at_rate(24.0, 0.75), **answers(0.1)))
    rows = rows_of(gpu, here=suite)
    assert rows[P95.format(75)][-1] == "beyond its capacity, **missed**"
    assert rows[P95.format(90)][-1] == "not measured"


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        ([0.2, 0.4], [0.2, 0.4], "1.00, **missed**"),
        ([0.2, 0.2], [0.4, 0.5], "at least 2.00, met"),
        ([0.2, 0.2], [0.2, 0.4], "at least 1.33, met"),
        ([0.4, 0.4], [0.2, 0.2], "below 0.50, **missed**"),
        ([0.2, 0.4], [0.2, 0.2], "below 0.75, **missed**"),
        ([0.2, 0.2], [0.2, 0.2], "not measured"),
        ([0.4, 0.4], [0.4, 0.4], "not measured"),
    ],
)
def test_a_sustained_rate_may_be_known_by_a_bound(
    ours: list[float], theirs: list[float], shown: str, suite: Results, gpu: Results
) -> None:
    for system, latencies in (("tandem", ours), ("ctranslate2", theirs)):
        one = {"setting": {"concurrency": 1}}
        suite.add(measured("closed", system, **one, **answers(0.1)))
        for rate, latency in zip((1.0, 2.0), latencies, strict=True):
            suite.add(measured("open", system, **at_rate(rate, rate / 4), **answers(latency)))
    assert rows_of(gpu, here=suite)[SUSTAINED.format("ctranslate2")][-1] == shown


@pytest.mark.parametrize(
    ("words", "is_most", "bound", "verdict"),
    [
        ("at least", False, 1.3, "met"),
        ("at least", False, 1.6, "open"),
        ("at least", True, 1.3, "**missed**"),
        ("at least", True, 1.6, "open"),
        ("below", False, 1.6, "**missed**"),
        ("below", False, 1.3, "open"),
        ("below", True, 1.6, "met"),
        ("below", True, 1.3, "open"),
    ],
)
def test_a_bound_decides_an_aim_or_leaves_it_open(
    words: Any, is_most: bool, bound: float, verdict: str
) -> None:
    aim = Aim("rate", bound, lambda results: Bound(words, 1.5), is_most)
    assert aim.cell(Results(None)) == f"{words} 1.50, {verdict}"


def test_a_run_with_other_settings_is_shown_and_not_judged(suite: Results, gpu: Results) -> None:
    older = Results(None, {"date": "2026-01-01", "systems": {"tandem": "as it was"}})
    for results in (suite, older):
        for system in ("tandem", "ctranslate2"):
            results.add(measured("offline", system, tokens=1000, seconds=5.0))
    rows = rows_of(gpu, old=older, new=suite)
    assert rows["figure"] == ["aim", "old, other settings", "new"]
    name = "tandem: times as many tokens/s offline as ctranslate2"
    assert rows[name] == ["at least 1.2", "1.00", "1.00, **missed**"]


def test_a_gpu_is_compared_with_generate_at_its_better_batch_size(
    suite: Results, gpu: Results
) -> None:
    for system, mode, rate in (
        ("tandem", "offline", 900.0),
        ("transformers", "offline", 100.0),
        ("transformers", "offline", 150.0),
        ("tandem", "alone", 50.0),
        ("transformers", "alone", 10.0),
    ):
        known = {"workload": "summarize-large", "system": system, "mode": mode}
        gpu.add(known | {"tokens_per_s": [rate]})
    greedy = {"workload": "summarize-large-greedy", "system": "tandem", "mode": "offline"}
    gpu.add(greedy | {"tokens_per_s": [48_000.0]})
    step = {"workload": "summarize-large", "system": "tandem", "mode": "step"}
    gpu.add(step | {"fraction_of_limit": 0.25})
    rows = rows_of(gpu, here=suite)
    beams = "`summarize-large`"
    ratio = "times as many tokens/s as `generate()`"
    assert rows[f"{beams}: {ratio} at its better batch size"] == ["at least 8", "6.00, **missed**"]
    assert rows[f"{beams}, one request at a time: {ratio}"] == ["at least 4", "5.00, met"]
    assert rows[f"{beams}, a step: times what its bytes take"] == ["at most 3", "4.00, **missed**"]
    assert rows["`summarize-large-greedy`: tokens/s with 128 in flight"] == [
        *("at least 47,000", "48000, met")
    ]
