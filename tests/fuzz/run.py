"""The long run: `make fuzz`. Writes docs/fuzz.json, and its table into docs/operations.md."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.bodies import LONG_TEXT, Strategy, bodies
from tests.fuzz.in_process import running
from tests.fuzz.raw_http import STREAMS, exchange, statuses_of
from tests.fuzz.report import RESULT, write_page
from tests.fuzz.server import serve

_KEY = "fuzz-0123456789abcdef"
_STAGE_S = 3600  # after which a process of a stage is ended: nothing hangs for ever
_COVERAGE_GUIDED = {"body": 40_000, "fields": 30_000, "headers": 20_000, "keys": 15_000}
_COVERAGE_GUIDED |= {"texts": 15_000}
_STREAMS_PER_PROBE = 20
_BOUNDS = ("--max-target-tokens", "12", "--max-num-beams", "4", "--max-source-tokens", "256")


@dataclass
class Stage:
    """One way of fuzzing.

    Attributes:
        name: What was fuzzed, and with what.
        seed: What the inputs were drawn with.
        inputs: How many inputs were tried.
        seconds: How long that took.
        findings: What went wrong.
    """

    name: str
    seed: int
    inputs: int = 0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)


def main() -> int:
    """Run the stages; the exit status is 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of a full run")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=[*_STAGES], nargs="*", help="run these stages again")
    arguments = parser.parse_args()
    stages = {key: _run(key, arguments.share, arguments.seed) for key in arguments.only or _STAGES}
    if arguments.share >= 1:
        _keep({key: asdict(stage) for key, stage in stages.items()})
    return int(any(stage.findings for stage in stages.values()))


def _run(key: str, share: float, number: int) -> Stage:
    name, whole, work = _STAGES[key]
    stage = Stage(name, number)
    started = time.monotonic()
    work(stage, max(1, int(whole * share)))
    stage.seconds = round(time.monotonic() - started, 1)
    print(json.dumps(asdict(stage)), flush=True)  # noqa: T201  # a run takes minutes
    return stage


def _keep(ran: dict[str, dict[str, object]]) -> None:
    """Write what ran; stages that did not keep what they had."""
    earlier = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    result = {key: {**earlier, **ran}[key] for key in _STAGES if key in {**earlier, **ran}}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_page()


def _counting(stage: Stage, work: Callable[..., object]) -> Callable[..., None]:
    def counted(value: object) -> None:
        stage.inputs += 1
        work(value)

    return counted


def _drawn(stage: Stage, inputs: Strategy, check: Callable[[Any], None], count: int) -> None:
    """Draw so many inputs; the smallest that fails is a finding."""

    @seed(stage.seed)
    @settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(inputs)
    def run(value: object) -> None:
        check(value)

    try:
        run()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        stage.findings.append(_told(error))


def _told(error: BaseException) -> str:
    """An exception and its notes, or all those of a group, each at some length."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_told, error.exceptions))
    notes = " ".join(getattr(error, "__notes__", []))
    return f"{type(error).__name__}: {str(error)[:1000]} {notes[:1000]}"


def _bodies(path: str, stage: Stage, count: int) -> None:
    with running() as fuzzed:
        post = _counting(stage, lambda body: fuzzed.post(path, body))
        _drawn(stage, bodies(path), post, count)


def _long_texts(stage: Stage, count: int) -> None:
    with running() as fuzzed:
        post = _counting(
            stage, lambda text: fuzzed.post("/translate", {"text": text, "overflow": "truncate"})
        )
        _drawn(stage, LONG_TEXT, post, count)


def _guided(target: str, stage: Stage, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        command = [sys.executable, "-m", "tests.fuzz.coverage_guided", target, str(corpus)]
        command += [f"-runs={count}", f"-seed={stage.seed % 2**31}", "-print_final_stats=1"]
        command += [f"-artifact_prefix={folder}/", "-timeout=120"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_STAGE_S, check=False
        )
        ran = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
        stage.inputs = int(ran[1]) if ran else 0
        if done.returncode or not ran:
            inputs = [repr(path.read_bytes()) for path in Path(folder).glob("*-*")]
            output = (done.stderr + done.stdout)[-1500:]
            stage.findings.append(f"{' '.join(inputs)}: {output}")


def _wire(stage: Stage, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with serve(log, *_BOUNDS, "--summarize-model", "none", lives_s=_STAGE_S) as served:
            health = f"http://127.0.0.1:{served.port}/health"

            def check(stream: bytes) -> None:
                statuses = statuses_of(exchange(served.port, stream))
                assert all(status < 500 or status in (503, 504) for status in statuses), statuses
                if stage.inputs % _STREAMS_PER_PROBE == 0:
                    assert httpx.get(health, timeout=60).status_code == 200

            _drawn(stage, STREAMS, _counting(stage, check), count)
            if served.process.poll() is not None:
                stage.findings.append(f"the server ended with {served.process.returncode}")
            stage.findings += served.faults[:20]


def _page(stage: Stage, count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = {"TANDEM_API_KEYS": f"fuzz:{_KEY}"}
        with serve(folder / "log", *_BOUNDS, lives_s=_STAGE_S, **keys) as served:
            url = f"http://127.0.0.1:{served.port}"
            page = httpx.get(f"{url}/openapi.json", headers={"X-API-Key": _KEY})
            (folder / "openapi.json").write_text(page.text, encoding="utf-8")
            report = folder / "report.json"
            command = [sys.executable, "-m", "schemathesis.cli"]
            command += ["--config-file", "schemathesis.toml", "run", str(folder / "openapi.json")]
            command += ["--url", url, "--max-examples", str(count), "--seed", str(stage.seed)]
            command += ["--continue-on-failure", "--report-json-path", str(report)]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_STAGE_S,
                check=False,
                env={**os.environ, "TANDEM_FUZZ_KEY": _KEY},
            )
            ran = re.search(r"(\d+) generated", done.stdout)
            stage.inputs = int(ran[1]) if ran else 0
            if done.returncode or not ran:
                stage.findings.append(done.stdout[-6000:])
            stage.findings += served.faults[:20]


_STAGES: dict[str, tuple[str, int, Callable[[Stage, int], None]]] = {
    **{
        f"guided-{target}": (
            f"`{target}`, guided by coverage (atheris)",
            count,
            partial(_guided, target),
        )
        for target, count in _COVERAGE_GUIDED.items()
    },
    **{
        f"bodies-{path[1:]}": (
            f"bodies of `{path}`, the whole app in process (Hypothesis)",
            2_000,
            partial(_bodies, path),
        )
        for path in ("/translate", "/summarize")
    },
    "long-texts": ("texts of up to 1 MB, the whole app in process (Hypothesis)", 40, _long_texts),
    "wire": ("HTTP on the wire, a server process (Hypothesis)", 5_000, _wire),
    "page": (
        "the API's own page, a server process (schemathesis, all checks)",
        30,  # of each operation and phase
        _page,
    ),
}
"""By key: what is fuzzed, with how many inputs in a full run, and how."""


if __name__ == "__main__":
    sys.exit(main())
