"""Every setting of a peer is tried with the same requests, and shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sweep as sweeps
from benchmarks.libraries import Knobs
from benchmarks.report import sweep_section
from benchmarks.results import Results
from benchmarks.run import settings_of
from benchmarks.sweep import Sweep, candidates, sweep
from benchmarks.systems import SYSTEMS


class FakeProcess:
    """Twice as fast with two batches side by side, and remembers what it was sent."""

    sent: list[Any] = []  # noqa: RUF012 # of all of them

    def __init__(self, knobs: Knobs) -> None:
        self._seconds = 2.0 / knobs.num_workers

    def ask(self, **order: Any) -> dict[str, Any]:
        self.sent.append(order)
        return {"seconds": self._seconds, "tokens": 100}

    def send(self, items: list[Any], **how: Any) -> dict[str, Any]:
        self.sent.append((items, how))
        return {"seconds": self._seconds, "tokens": 100, "latencies_s": [0.1 for _ in items]}


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def started(mode: str, name: str, workload: str, knobs: Knobs) -> Iterator[FakeProcess]:
        yield FakeProcess(knobs)

    monkeypatch.setattr(sweeps, "started", started)
    monkeypatch.setattr(FakeProcess, "sent", [])


def test_every_use_of_the_cores_meets_every_size_of_batches_and_nothing_comes_twice() -> None:
    swept = Sweep(
        mode="closed",
        workload="translate",
        systems=(),
        num_requests=8,
        num_rounds=1,
        setting={"concurrency": 4},
        batch_sizes=(16, 32, 64),
        slacks=(0.25, 0.0),
        waits_ms=(0.0, 20.0),
    )
    found = candidates(SYSTEMS["ctranslate2"].knobs, swept)
    assert len(found) == len(set(found))
    assert {(each.num_threads, each.num_workers, each.max_batch_size) for each in found} >= {
        (threads, workers, size) for threads, workers in ((2, 1), (1, 2)) for size in (16, 32, 64)
    }
    assert {each.wait_ms for each in found} == {0.0, 20.0}
    assert {each.length_slack for each in found} == {0.0, 0.25}


@pytest.mark.parametrize(("mode", "setting"), [("offline", {}), ("closed", {"concurrency": 4})])
def test_candidates_get_the_same_requests_and_the_best_is_shown_first(
    mode: Any, setting: dict[str, int], tmp_path: Path
) -> None:
    results = Results.new(tmp_path / "sweep.json", systems=settings_of(["ctranslate2"]))
    swept = Sweep(
        mode=mode,
        workload="translate",
        systems=("litserve", "ctranslate2"),
        num_requests=8,
        num_rounds=2,
        setting=setting,
        batch_sizes=(16, 32),
    )
    sweep([swept], ["ctranslate2"], results)
    num_candidates = len(results.measured) // 2
    first, second = FakeProcess.sent[:num_candidates], FakeProcess.sent[num_candidates:]
    assert all(each == first[0] for each in first)
    assert all(each == second[0] for each in second)
    assert first[0] != second[0]
    rows = [row for row in sweep_section(results).splitlines() if "ctranslate2 |" in row]
    assert len(rows) == num_candidates
    rates = [float(row.split("|")[10]) for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (100, 50)
    assert sum("| yes |" in row for row in rows) == 1
    clients = "4 clients" if setting else "all at once"
    assert all(f"| `translate` | ctranslate2 | {clients} |" in row for row in rows)
