"""Tables and plots show what a results file holds, and the page what is kept beside it."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.plots import latency_curves, plot_suite, throughput_curves
from benchmarks.publish import FOLDER, KINDS, PAGE, render, suite_of
from benchmarks.report import (
    closed_table,
    goodput,
    offline_table,
    open_table,
    steps_table,
    suite_section,
    sustained,
    sustained_rate,
    sustained_table,
    time_bound_s,
)
from benchmarks.results import Results, figure


def offline(system: str, seconds: float, number: int) -> dict[str, Any]:
    found = {"tokens": 1000, "seconds": seconds, "num_requests": 4}
    return known("offline", system, number, {}) | found


def served(
    mode: str, system: str, setting: dict[str, Any], latencies: list[float]
) -> dict[str, Any]:
    return known(mode, system, 0, setting) | {
        "seconds": 2.0,
        "tokens": 10,
        "latencies_s": latencies,
        "num_failed": 1 if system == "litserve" else 0,
        "sender": {"was_bottleneck": system == "litserve"},
    }


def known(mode: str, system: str, number: int, setting: dict[str, Any]) -> dict[str, Any]:
    names = {"mode": mode, "workload": "translate", "system": system}
    return names | {"round": number, "setting": setting}


@pytest.fixture
def results() -> Results:
    """Two systems and the limit, and one that was late."""
    recorded = Results(None)
    recorded.about = {
        "date": "2026-01-02",
        "machine": {
            "cores": 2,
            "processor": "P",
            "architecture": "x86_64",
            "instructions": "avx2",
            "memory_gib": 8,
            "wait_policy": "passive",
            "load_before": 0.1,
        },
        "versions": {"python": "3.11"},
        "plan": "quick",
        "workloads": {"translate": "the shape"},
    }
    for number, factor in enumerate((1.0, 1.25, 1.0)):
        recorded.add(offline("tandem", 4.0 * factor, number))
        recorded.add(offline("ctranslate2", 8.0 * factor, number))
        recorded.add(offline("products", 2.0, number))
    for system, seconds in (("tandem", 0.05), ("products", 0.03)):
        recorded.add(known("steps", system, 0, {"rows": 64}) | {"seconds": seconds})
    recorded.add(served("closed", "tandem", {"concurrency": 1}, [0.1] * 16))
    recorded.add(served("closed", "litserve", {"concurrency": 1}, [0.4] * 4))
    for rate, latency in ((2.0, 0.2), (4.0, 0.5)):
        setting = {"rate": rate, "of": "peer", "share": rate / 4}
        recorded.add(served("open", "tandem", setting, [latency] * 16))
    recorded.leave_out("translate", "litserve", "open", "it is slow")
    return recorded


def test_offline_shows_medians_spread_ratio_and_share_of_the_limit(results: Results) -> None:
    rows = offline_table(results, "translate").splitlines()
    assert rows[2] == "| tandem | 250 | 200 to 250 | 1.00 | 50% |"
    assert rows[3] == "| ctranslate2 | 125 | 100 to 125 | 2.00 | 25% |"
    assert rows[4].endswith("| 500 | 500 to 500 | 0.50 | 100% |")


def test_int8_is_compared_with_int8(results: Results) -> None:
    results.add(offline("tandem-int8", 2.0, 0))
    results.add(offline("ctranslate2-int8", 4.0, 0))
    table = offline_table(results, "translate")
    assert "| ctranslate2-int8 | 250 | 250 to 250 | 2.00 | 50% |" in table
    assert "| ctranslate2 | 125 | 100 to 125 | 2.00 | 25% |" in table


def test_steps_stand_beside_their_products(results: Results) -> None:
    assert "| 64 | tandem | 50.0 | 30.0 | 60% |" in steps_table(results, "translate")


def test_closed_shows_throughput_latency_and_failures(results: Results) -> None:
    table = closed_table(results, "translate")
    assert "| 1 | tandem | 8.00 | 8.00 to 8.00 | 1.00 | 16 | 100 | 100 |  | 0 |" in table
    assert "| 1 | litserve | 2.00 | 2.00 to 2.00 | 4.00 | 4 | 400 |  |  | 1 |" in table


def test_a_percentile_of_too_few_answers_is_left_empty(results: Results) -> None:
    for name, num_answers in (("many", 80), ("some", 79), ("few", 15)):
        results.add(served("closed", name, {"concurrency": 8}, [0.1] * num_answers))
    table = closed_table(results, "translate")
    assert "| 80 | 100 | 100 | 100 | 0 |" in table
    assert "| 79 | 100 | 100 |  | 0 |" in table
    assert "| 15 | 100 |  |  | 0 |" in table


def test_open_shows_goodput_within_three_times_the_best_unloaded_latency(results: Results) -> None:
    assert time_bound_s(results, "translate") == pytest.approx(0.3)
    in_time, late = results.of("open")
    assert goodput(in_time, 0.3) == 8.0
    assert goodput(late, 0.3) == 0.0
    row = "| 2.00 | 50% of best peer's capacity | tandem | 8.00 | 8.00 | 16 | 200 | 200 |  | 0 |"
    assert row in open_table(results, "translate")


def test_sustained_is_where_latency_crosses_its_bound(results: Results) -> None:
    assert str(sustained([(1.0, 0.1), (2.0, 0.2)], 0.3)) == "at least 2.00"
    assert str(sustained([(2.0, 0.2), (4.0, 0.4)], 0.3)) == "3.00"
    assert str(sustained([(2.0, 0.5)], 0.3)) == "below 2.00"
    assert "| tandem | 100 | 2.67 | 8.00 |" in sustained_table(results, "translate")


def test_a_sustained_rate_rests_on_enough_answers(results: Results) -> None:
    for rate, latencies in ((1.0, [0.9] * 15), (8.0, [0.9] * 15)):
        setting = {"rate": rate, "of": "own", "share": rate / 4}
        results.add(served("open", "tandem", setting, latencies))
    assert str(sustained_rate(results, "translate", "tandem")) == "2.67"
    assert sustained_rate(results, "translate", "litserve") is None


def test_the_section_names_what_is_missing_and_where_the_sender_was_late(results: Results) -> None:
    section = suite_section(results, "performance/vnni")
    assert "](performance/vnni/translate-latency.svg)" in section
    assert "- litserve, open: it is slow." in section
    assert "- litserve, closed, concurrency 1" in section
    assert "2 cores of P" in section
    assert "Offline: 4 requests at once." in section


def test_results_survive_their_file(results: Results, tmp_path: Path) -> None:
    results.path = tmp_path / "suite.json"
    results.write()
    again = Results.read(results.path)
    assert (again.about, again.measured, again.missing) == (
        results.about,
        results.measured,
        results.missing,
    )


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1234, "0.12"), (12.34, "12.3"), (1234.5, "1234"), (float("nan"), "")]
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_plots_show_every_system_and_are_the_same_again(results: Results, tmp_path: Path) -> None:
    alone = {"concurrency": 1, "alone": True}
    results.add(served("closed", "tandem", alone, [0.1] * 16))
    assert throughput_curves(results, "translate")["tandem"] == [(1, 8.0)]
    assert latency_curves(results, "translate")["tandem"] == [(2.0, 0.2), (4.0, 0.5)]
    paths = plot_suite(results, tmp_path)
    assert {path.name for path in paths} == {"translate-throughput.svg", "translate-latency.svg"}
    drawn = [path.read_text(encoding="utf-8") for path in paths]
    assert "litserve" in drawn[0]
    assert drawn == [path.read_text(encoding="utf-8") for path in plot_suite(results, tmp_path)]


def test_the_page_shows_the_results_that_are_kept() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == render(page), "run `make performance-page`"


def test_every_plot_of_the_page_is_kept() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for path in FOLDER.glob("**/*.svg"):
        assert f"({path.relative_to(PAGE.parent)})" in page
    for suite in map(suite_of, KINDS):
        for workload in {each.workload for each in Results.read(suite).of("closed")}:
            assert (suite.parent / f"{workload}-throughput.svg").exists()
