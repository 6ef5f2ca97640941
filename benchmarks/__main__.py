"""The command line of the benchmarks: `run`, `sweep`, `publish`."""

import argparse
import sys
from pathlib import Path

from benchmarks.plan import PLANS, describe, plan
from benchmarks.results import Results
from benchmarks.sweep import SWEEPS, SWEPT, sweep
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS

_MODES = ("offline", "steps", "closed", "open")
_RESULTS = Path(__file__).with_name("results")


def _run(arguments: argparse.Namespace) -> None:
    from benchmarks.run import resumed, run, settings_of

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
    if arguments.resume:
        if not arguments.output.exists():
            sys.exit(f"--resume: expected the results of a run at {arguments.output}, found none")
        results = Results.read(arguments.output)
        results.check_same(**about)
        measurements = resumed(measurements, results)
    else:
        results = Results.new(arguments.output, **about)
    if arguments.minutes:
        results.about.setdefault("minutes", []).append(arguments.minutes)
    print(describe(measurements), file=sys.stderr)
    if arguments.dry:
        return
    run(measurements, results, 60 * arguments.minutes if arguments.minutes else None)
    print(f"Written to {arguments.output}", file=sys.stderr)


def _sweep(arguments: argparse.Namespace) -> None:
    sweeps = [each for each in SWEEPS if each.workload in arguments.workloads]
    results = Results.new(arguments.output)
    if arguments.add:
        results = Results.read(arguments.output)
        results.check_same()
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


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure")
    run.add_argument("--plan", choices=PLANS, default="quick")
    run.add_argument("--workloads", nargs="+", choices=WORKLOADS)
    run.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    run.add_argument("--modes", nargs="+", choices=_MODES, default=list(_MODES))
    run.add_argument("--leave-out", nargs="+", default=[], metavar="WORKLOAD/MODE")
    run.add_argument("--minutes", type=float, help="begin nothing that would end later")
    run.add_argument("--resume", action="store_true", help="measure what the output lacks")
    run.add_argument("--output", type=Path, default=_RESULTS / "suite.json")
    run.add_argument("--dry", action="store_true", help="print the plan and stop")
    run.set_defaults(do=_run)
    sweep = commands.add_parser("sweep", help="try settings of the peers")
    swept = list(dict.fromkeys(each.workload for each in SWEEPS))
    sweep.add_argument("--workloads", nargs="+", choices=swept, default=swept)
    sweep.add_argument("--systems", nargs="+", choices=SWEPT, default=SWEPT)
    sweep.add_argument("--add", action="store_true", help="to what the output has already")
    sweep.add_argument("--output", type=Path, default=_RESULTS / "sweep.json")
    sweep.set_defaults(do=_sweep)
    publish = commands.add_parser("publish", help="write docs/performance.md from results")
    publish.add_argument("--suite", type=Path, help="take over this run")
    publish.add_argument("--growth", type=Path, help="take over this run")
    publish.add_argument("--sweep", type=Path, help="take over this run")
    publish.add_argument("--gpu", type=Path, nargs="+", default=[], help="take over these runs")
    publish.set_defaults(do=_publish)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
