"""Plans are interleaved and sized for their time; what cannot be measured is named."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import run as runs
from benchmarks.libraries import Knobs
from benchmarks.plan import PLANS, Measurement, Sizes, describe, plan, seconds_of, stages
from benchmarks.processes import RefusedError, _process, _Sleeper
from benchmarks.results import Results
from benchmarks.run import hash_of, poisson, resumed, run
from benchmarks.systems import SYSTEMS, systems_for
from benchmarks.workloads import WORKLOADS, Item

MODES: Any = ("offline", "steps", "closed", "open")


def test_systems_take_turns_within_a_round() -> None:
    sizes = Sizes(offline=4, closed={1: 4, 8: 8}, rounds={"offline": 2, "closed": 2}, most_s=100)
    found = plan({"translate": sizes}, ["tandem", "ctranslate2"], MODES)
    assert [(each.mode, each.round, each.system) for each in found[:4]] == [
        ("offline", number, system) for number in (0, 1) for system in ("tandem", "ctranslate2")
    ]
    assert [(each.round, each.setting["concurrency"], each.system) for each in found[4:8]] == [
        (0, concurrency, system) for concurrency in (1, 8) for system in ("tandem", "ctranslate2")
    ]


def test_the_quick_plan_ends_within_its_hour() -> None:
    measurements = plan(PLANS["quick"], list(SYSTEMS), MODES)
    assert seconds_of(measurements) < 58 * 60
    assert "in all about" in describe(measurements)


def test_the_full_plan_has_every_workload_mode_and_system() -> None:
    measurements = plan(PLANS["full"], list(SYSTEMS), MODES)
    found = {(each.workload, each.mode, each.system) for each in measurements}
    for workload in WORKLOADS:
        for mode in MODES:
            assert {system for w, m, system in found if (w, m) == (workload, mode)} == set(
                systems_for(mode)
            )
    assert not any(each.is_too_slow for each in measurements)


def test_a_system_too_slow_for_a_concurrency_is_not_given_fewer_requests_than_clients() -> None:
    sizes = Sizes(closed={1: 4, 32: 64}, rounds={"closed": 1}, most_s=10)
    found = plan({"translate": sizes}, ["fastapi", "tandem"], MODES)
    assert [(each.system, each.num_requests) for each in found] == [
        *(("tandem", 4), ("fastapi", 4), ("tandem", 64), ("fastapi", 0))
    ]


def test_many_clients_may_have_one_round() -> None:
    sizes = Sizes(closed={8: 8, 32: 32}, one_round_from=32, rounds={"closed": 2})
    found = plan({"translate": sizes}, ["tandem"], MODES)
    assert [each.setting["concurrency"] for each in found] == [8, 32, 8]


def test_a_server_is_also_set_up_for_one_client_where_that_is_another_setting() -> None:
    sizes = Sizes(closed={1: 4, 8: 8}, rounds={"closed": 1})
    found = plan({"translate": sizes}, ["tandem", "ctranslate2"], MODES)
    assert hash_of(found[1], found[1].setting) == hash_of(found[-1], found[-1].setting)
    assert hash_of(found[1], found[1].setting) != hash_of(found[2], found[2].setting)
    assert [(each.setting["concurrency"], each.process) for each in found] == [
        (1, ("tandem", SYSTEMS["tandem"].knobs)),
        (1, ("ctranslate2", SYSTEMS["ctranslate2"].knobs)),
        (8, ("tandem", SYSTEMS["tandem"].knobs)),
        (8, ("ctranslate2", SYSTEMS["ctranslate2"].knobs)),
        (1, ("ctranslate2", SYSTEMS["ctranslate2"].alone)),
    ]


def test_a_checkpoint_is_loaded_once_for_its_workloads() -> None:
    each = Sizes(offline=4, closed={1: 4}, rounds={"offline": 1, "closed": 1}, most_s=100)
    names = ("translate-greedy", "translate", "bert2bert")
    found = list(stages(plan(dict.fromkeys(names, each), ["tandem"], MODES)))
    assert [[(m.workload, m.mode) for m in stage] for stage in found] == [
        [("translate-greedy", "offline"), ("translate", "offline")],
        [("bert2bert", "offline")],
        [("translate-greedy", "closed"), ("translate", "closed")],
        [("bert2bert", "closed")],
    ]


class FakeProcess:
    """Answers at once: capacities are 10 requests/s, 5 for others than Tandem."""

    def __init__(self, system: str) -> None:
        self.rate = 10.0 if system == "tandem" else 5.0

    def ask(self, **order: Any) -> dict[str, Any]:
        return {"seconds": 1.0, "tokens": 10 * order.get("decode", 0)}

    def send(self, items: Sequence[Item], **how: Any) -> dict[str, Any]:
        latencies = [0.1 for _ in items]
        sender = {"was_bottleneck": False}
        return {"seconds": len(items) / self.rate, "latencies_s": latencies, "sender": sender}


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def started(mode: str, system: str, workload: str, knobs: Knobs) -> Iterator[FakeProcess]:
        if system == "litserve":
            raise RefusedError("it is not installed")
        yield FakeProcess(system)

    monkeypatch.setattr(runs, "started", started)


def small_plan() -> list[Measurement]:
    sizes = Sizes(
        offline=4,
        steps=(16,),
        closed={8: 16},
        open_rates=(("peer", 0.5), ("ours", 0.9), ("own", 0.2)),
        open_s=2.0,
        rounds=dict.fromkeys(MODES, 2),
    )
    return plan({"translate": sizes}, list(SYSTEMS), MODES)


@pytest.mark.usefixtures("no_processes")
def test_everything_is_measured_or_its_absence_explained(tmp_path: Path) -> None:
    results = Results(tmp_path / "suite.json")
    run(small_plan(), results, limit_s=None)
    assert len(list(results.of("offline"))) == len(systems_for("offline"))
    assert {(each.system == "tandem", each.setting["rate"]) for each in results.of("open")} == {
        *((True, 2.5), (True, 9.0), (True, 2.0), (False, 2.5), (False, 1.0))
    }
    reasons = {(each["system"], each["mode"]): each["reason"] for each in results.missing}
    assert reasons["litserve", "closed"] == "it is not installed"
    assert (
        reasons["ctranslate2", "open"] == "further rates are beyond its capacity of 5.00 requests/s"
    )
    assert Results.read(tmp_path / "suite.json").measured == results.measured


@pytest.mark.usefixtures("no_processes")
def test_the_best_system_is_not_measured_twice_at_one_rate(tmp_path: Path) -> None:
    rates = (("ours", 0.5), ("own", 0.5))
    sizes = Sizes(closed={8: 16}, open_rates=rates, open_s=2.0, rounds={"closed": 1, "open": 1})
    results = Results(tmp_path / "suite.json")
    run(plan({"translate": sizes}, ["tandem", "ctranslate2"], MODES), results, limit_s=None)
    found = [(each.system, each.setting["of"]) for each in results.of("open")]
    assert found == [("tandem", "ours"), ("ctranslate2", "ours"), ("ctranslate2", "own")]


@pytest.mark.usefixtures("no_processes")
def test_nothing_begins_that_would_end_too_late(tmp_path: Path) -> None:
    results = Results(tmp_path / "suite.json")
    run(small_plan(), results, limit_s=1.0)
    assert not results.measured
    assert {each["reason"] for each in results.missing} == {"no time was left"}


@pytest.mark.usefixtures("no_processes")
def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    results = Results(tmp_path / "suite.json")
    run(small_plan()[:3], results, limit_s=None)
    assert len(Results.read(tmp_path / "suite.json").measured) == 3


@pytest.mark.usefixtures("no_processes")
def test_a_run_that_goes_on_measures_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    whole = Results(tmp_path / "whole.json")
    run(small_plan(), whole, limit_s=None)
    cut = Results(tmp_path / "cut.json", measured=whole.measured[:3])
    run(small_plan()[3:], cut, limit_s=1.0)
    run(resumed(small_plan(), cut), cut, limit_s=None)
    assert cut.measured == whole.measured
    assert cut.missing == whole.missing
    run(resumed(small_plan(), whole), whole, limit_s=None)
    assert cut.measured == whole.measured


@pytest.mark.usefixtures("no_processes")
@pytest.mark.parametrize("limit_s", range(200, 320, 10))
def test_rates_rest_on_whole_capacities_wherever_time_ends(
    limit_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Results(tmp_path / "whole.json")
    run(small_plan(), whole, limit_s=None)
    cut = Results(tmp_path / "cut.json")
    monkeypatch.setattr(runs.Clock, "elapsed_s", property(lambda clock: 20.0 * len(cut.measured)))
    run(small_plan(), cut, limit_s=limit_s)
    assert 0 < len(cut.measured) < len(whole.measured)
    assert cut.measured == whole.measured[: len(cut.measured)]
    assert "no time was left" in {each["reason"] for each in cut.missing}
    run(resumed(small_plan(), cut), cut, limit_s=None)
    assert cut.measured == whole.measured
    assert Results.read(tmp_path / "cut.json").missing == whole.missing


@pytest.mark.usefixtures("no_processes")
def test_a_workload_that_is_cut_leaves_time_for_those_that_are_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Sizes(closed={8: 80}, rounds={"closed": 2}, most_s=1000)
    short = Sizes(closed={8: 8}, rounds={"closed": 1})
    results = Results(tmp_path / "suite.json")
    monkeypatch.setattr(
        runs.Clock, "elapsed_s", property(lambda clock: 10.0 * len(results.measured))
    )
    planned = plan({"translate": long, "translate-even": short}, ["tandem"], MODES)
    run(planned, results, limit_s=22.0)
    assert [(each["workload"], each["round"]) for each in results.measured] == [
        ("translate", 0),
        ("translate-even", 0),
    ]


def test_a_run_goes_on_only_where_it_began_and_as_it_was_planned(tmp_path: Path) -> None:
    results = Results.new(tmp_path / "suite.json", plan="quick")
    results.check_same(plan="quick")
    with pytest.raises(ValueError, match="plan: expected quick, found full"):
        results.check_same(plan="full")
    for name in ("machine", "versions", "commit"):
        elsewhere = Results(None, results.about | {name: {"load_before": 0.0}})
        with pytest.raises(ValueError, match=f"{name}: expected"):
            elsewhere.check_same(plan="quick")


def test_arrivals_are_seeded_and_as_many_as_the_rate_says() -> None:
    arrivals = poisson(10.0, 200.0, seed=1)
    assert arrivals == poisson(10.0, 200.0, seed=1)
    assert arrivals == sorted(arrivals)
    assert len(arrivals) == pytest.approx(2000, rel=0.1)
    assert len(poisson(0.001, 1.0, seed=1)) == 1


@contextmanager
def stopped_child() -> Iterator[tuple[_Sleeper, int]]:
    """A process that waits for its standard input."""
    command = [sys.executable, "-c", "input()"]
    with _process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        sleeper = _Sleeper(process)
        sleeper.sleep()
        yield sleeper, process.pid


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_is_stopped_while_it_is_not_measured_and_ends_with_its_block() -> None:
    with stopped_child() as (sleeper, pid):
        _await_state(pid, "T")
        with sleeper.awake():
            _await_state(pid, "RS")
        _await_state(pid, "T")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def _await_state(pid: int, states: str) -> None:
    give_up = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split(")")[1][1] not in states:
        assert time.monotonic() < give_up
        os.sched_yield()


def test_a_benchmark_that_is_told_to_end_leaves_none_of_its_systems_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[str]] = []

    def measure(arguments: argparse.Namespace) -> None:
        with _process(["sleep", "60"]) as process:
            started.append(process)
            _Sleeper(process).sleep()
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it went on")

    monkeypatch.setattr(command, "_run", measure)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "run"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            command.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM
    assert [process.poll() for process in started] == [-signal.SIGTERM]
