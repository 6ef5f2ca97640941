"""The command line of the benchmarks: `run`, `sweep`, `publish`."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from benchmarks.plan import PLANS, describe, plan
from benchmarks.results import Results
from benchmarks.run import resumed, run, settings_of
from benchmarks.sweep import SWEEPS, SWEPT, sweep
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS

_MODES = ("offline", "steps", "closed", "open")
_RESULTS = Path(__file__).with_name("results")


def _results(arguments: argparse.Namespace, goes_on: bool, **about: Any) -> Results:
    """Empty ones, or those that an earlier run left; `about` is what is measured."""
    if not goes_on:
        return Results.new(arguments.output, **about)
    if not arguments.output.exists():
        sys.exit(f"--output: expected the results of a run at {arguments.output}, found none")
    results = Results.read(arguments.output)
    results.check_same(**about)
    return results


def _run(arguments: argparse.Namespace) -> None:
    chosen = PLANS[arguments.plan]
    sizes = {name: chosen[name] for name in arguments.workloads or chosen}
    measurements = [
        each
        for each in plan(sizes, arguments.systems, arguments.modes)
        if f"{each.workload}/{each.mode}" not in arguments.leave_out
    ]
    about = {
        "plan": arguments.plan,
        "workloads": {name: WORKLOADS[name].about for name in sizes},
        "systems": settings_of(arguments.systems),
    }
    results = _results(arguments, arguments.resume, **about)
    measurements = resumed(measurements, results)
    if arguments.minutes:
        results.about.setdefault("minutes", []).append(arguments.minutes)
    print(describe(measurements), file=sys.stderr)
    if arguments.dry:
        return
    run(measurements, results, 60 * arguments.minutes if arguments.minutes else None)
    print(f"Written to {arguments.output}", file=sys.stderr)


def _sweep(arguments: argparse.Namespace) -> None:
    sweeps = [each for each in SWEEPS if each.workload in arguments.workloads]
    results = _results(arguments, arguments.add, systems=settings_of(SWEPT))
    sweep(sweeps, arguments.systems, results)
    print(f"Written to {arguments.output}", file=sys.stderr)


def _publish(arguments: argparse.Namespace) -> None:
    from benchmarks.publish import publish

    publish(
        suite=arguments.suite,
        growth=arguments.growth,
        sweep=arguments.sweep,
        gpu=arguments.gpu,
    )


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


def main() -> None:
    """Run from the command line."""
    # The systems that it started sleep, with all their memory: they end with it, not after it.
    signal.signal(signal.SIGTERM, _end)
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="measure")
    running.add_argument("--plan", choices=PLANS, default="quick")
    running.add_argument("--workloads", nargs="+", choices=WORKLOADS)
    running.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    running.add_argument("--modes", nargs="+", choices=_MODES, default=list(_MODES))
    running.add_argument("--leave-out", nargs="+", default=[], metavar="WORKLOAD/MODE")
    running.add_argument("--minutes", type=float, help="begin nothing that would end later")
    running.add_argument("--resume", action="store_true", help="measure what the output lacks")
    running.add_argument("--output", type=Path, default=_RESULTS / "suite.json")
    running.add_argument("--dry", action="store_true", help="print the plan and stop")
    running.set_defaults(do=_run)
    sweeping = commands.add_parser("sweep", help="try settings of the peers")
    swept = list(dict.fromkeys(each.workload for each in SWEEPS))
    sweeping.add_argument("--workloads", nargs="+", choices=swept, default=swept)
    sweeping.add_argument("--systems", nargs="+", choices=SWEPT, default=SWEPT)
    sweeping.add_argument("--add", action="store_true", help="to what the output has already")
    sweeping.add_argument("--output", type=Path, default=_RESULTS / "sweep.json")
    sweeping.set_defaults(do=_sweep)
    publishing = commands.add_parser("publish", help="write docs/performance.md from results")
    publishing.add_argument("--suite", type=Path, help="take over this run")
    publishing.add_argument("--growth", type=Path, help="take over this run")
    publishing.add_argument("--sweep", type=Path, help="take over this run")
    publishing.add_argument("--gpu", type=Path, nargs="+", default=[], help="take over these runs")
    publishing.set_defaults(do=_publish)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
