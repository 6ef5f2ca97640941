"""Aims stand beside what the last runs show, and are not called met where nothing was measured."""

from typing import Any

import pytest

from benchmarks.aims import Aim, aims_section
from benchmarks.report import Bound
from benchmarks.results import Results


def measured(mode: str, system: str, **more: Any) -> dict[str, Any]:
    known = {"mode": mode, "workload": "translate", "system": system, "round": 0, "setting": {}}
    return known | {"num_failed": 0} | more


def rows_of(suite: Results, gpu: Results) -> dict[str, list[str]]:
    lines = [line for line in aims_section({"here": suite}, gpu).splitlines() if "|" in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in cells}


@pytest.fixture
def gpu() -> Results:
    return Results(None, {"gpu": "H200"})


def test_nothing_is_met_that_was_not_measured(gpu: Results) -> None:
    rows = rows_of(Results(None), gpu)
    found = {rest[-1] for name, rest in rows.items() if rest[0].startswith("at ")}
    assert found == {"not measured"}


def test_figures_are_those_of_the_run(gpu: Results) -> None:
    suite = Results(None)
    for system, seconds in (("tandem", 4.0), ("ctranslate2", 5.0)):
        suite.add(measured("offline", system, tokens=1000, seconds=seconds))
    for system, latency in (("tandem", 0.2), ("ctranslate2", 0.8), ("litserve", 0.9)):
        one = {"setting": {"concurrency": 1}, "seconds": 1.0, "latencies_s": [latency] * 4}
        suite.add(measured("closed", system, **one))
        for rate, share in ((2.0, 0.5), (3.0, 0.75)):
            setting = {"of": "peer", "share": share, "rate": rate}
            p95 = latency * rate
            suite.add(measured("open", system, setting=setting, seconds=1.0, latencies_s=[p95] * 4))
    alone = {"concurrency": 1, "alone": True}
    suite.add(measured("closed", "ctranslate2", setting=alone, seconds=1.0, latencies_s=[0.4] * 4))
    suite.add(measured("steps", "tandem", setting={"rows": 64}, seconds=0.1))
    suite.add(measured("steps", "products", setting={"rows": 64}, seconds=0.05))
    rows = rows_of(suite, gpu)
    shown = {
        "tandem: times as many tokens/s offline as ctranslate2": ["at least 1.2", "1.25, met"],
        "tandem: p95 to the best peer's at 75% of its capacity": ["at most 0.5", "0.25, met"],
        "tandem: latency of one client, to that of ctranslate2": ["at most 1.1", "0.50, met"],
        "tandem: percent of the limit, a step of 64 rows": ["at least 60", "50.0, **missed**"],
    }
    for name, cells in shown.items():
        assert rows[f"`translate`, {name}"] == cells


def test_a_bound_meets_an_aim_or_leaves_it_open() -> None:
    for bound, said in ((1.3, "at least 1.50, met"), (1.6, "at least 1.50, open")):
        aim = Aim("rate", bound, lambda results: Bound("at least", 1.5))
        assert aim.cell(Results(None)) == said


def test_a_gpu_is_compared_with_generate_at_its_better_batch_size(gpu: Results) -> None:
    for system, rates in (
        ("tandem", [900.0]),
        ("transformers", [100.0]),
        ("transformers", [150.0]),
    ):
        known = {"workload": "summarize-large", "system": system, "mode": "offline"}
        gpu.add(known | {"tokens_per_s": rates})
    step = {"workload": "summarize-large", "system": "tandem", "mode": "step"}
    gpu.add(step | {"fraction_of_limit": 0.25})
    rows = rows_of(Results(None), gpu)
    ratio = "times as many tokens/s as `generate()` at its better batch size"
    assert rows[f"`summarize-large`: {ratio}"] == ["at least 8", "6.00, **missed**"]
    assert rows["`summarize-large`, a step: times what its bytes take"] == [
        *("at most 3", "4.00, **missed**")
    ]
