"""Growth is measured on what was asked for, and its exponents are those of the data."""

import math
from pathlib import Path

import pytest

from benchmarks.growth import AXES, Point, in_a_fork, measure, soak
from benchmarks.growth_report import exponent, growth_table, plot_growth, slope, soak_line
from benchmarks.results import Results

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory"
)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_a_power_law(power: float) -> None:
    curve = [(x, 3.0 * x**power) for x in (1, 2, 4, 8, 16)]
    assert exponent(curve) == pytest.approx(power)


def test_overhead_at_the_start_does_not_hide_what_grows() -> None:
    curve = [(x, 5.0 + x**2) for x in (1, 2, 4, 8, 16, 32, 64, 128)]
    assert exponent(curve) > 1.9


def test_the_slope_of_too_few_points_is_not_a_number() -> None:
    assert math.isnan(slope([(1.0, 1.0)]))


def test_points_span_what_is_promised() -> None:
    assert (AXES["requests"][0], AXES["requests"][-1]) == (1, 512)
    assert (AXES["source_len"][0], AXES["source_len"][-1]) == (16, 1024)
    assert (AXES["beams"][0], AXES["beams"][-1]) == (1, 8)


@needs_proc
def test_a_point_decodes_its_requests() -> None:
    found = measure(Point(requests=2, source_len=4, target_len=5, beams=2, vocabulary=100))
    assert found["step_s"] > 0
    assert found["memory_bytes"] >= 0


@needs_proc
def test_a_soak_samples_memory_as_requests_end() -> None:
    samples = soak(200)
    assert [ended // 100 for ended, _ in samples] == [1, 2]
    assert all(resident > 0 for _, resident in samples)


def test_a_fork_gives_the_answer_of_its_work() -> None:
    assert in_a_fork(lambda: 42) == 42


def test_tables_and_plots_show_both_ends(tmp_path: Path) -> None:
    results = Results(None)
    for value in (1, 2, 4):
        found = {"step_s": 0.01 * value, "encode_s": 0.1, "memory_bytes": value * 2**20}
        results.add({"mode": "growth", "axis": "requests", "value": value, "round": 0} | found)
    row = "| requests in flight | 1 to 4 | 10.0 to 40.0 | 1.00 | 100 to 100 | 0.00 | 1.00 to 4.00 |"
    assert row in growth_table(results)
    plot_growth(results, tmp_path)
    assert "requests in flight" in (tmp_path / "growth-step.svg").read_text(encoding="utf-8")


def test_a_soak_states_the_slope_of_its_second_half() -> None:
    samples = [(100, 0), (200, 1000 * 2**20), (300, 2000 * 2**20), (400, 2000 * 2**20 + 500)]
    assert "is 5 bytes for each request" in soak_line(samples)
