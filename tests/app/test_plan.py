"""`tandem plan`: limits that fit into a memory, as a file of variables."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.planning.plan import PlanError, Workload, make_plan, size
from app.settings import SHIPPED, Settings
from model_core.checkpoint import CheckpointOptions
from model_core.shape import Shape, read_shape

GiB = 1024**3
SETTINGS = Settings()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", "--device", "cpu", *arguments])


def variables(result: Result) -> dict[str, str]:
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def shape() -> Shape:
    return read_shape(str(SHIPPED / "summarize-en"), CheckpointOptions(device="cpu"))


def test_what_is_printed_sets_a_server_up(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = variables(run("summarize-en", "--memory", "2GiB"))
    for name, value in planned.items():
        monkeypatch.setenv(name, value)

    settings = Settings.from_environment()

    assert 1 < settings.max_running_requests < 128
    assert settings.max_waiting_requests == 8 * settings.max_running_requests
    assert settings.max_cache_bytes < 1 * GiB


@pytest.mark.parametrize("memory_bytes", [int(1.5 * GiB), 2 * GiB, 64 * GiB])
def test_a_plan_stays_within_the_memory(shape: Shape, memory_bytes: int) -> None:
    workload = Workload(source_len=256, max_length=64, num_beams=16)
    planned = make_plan(shape, workload, memory_bytes, SETTINGS)

    assert planned.fixed_bytes + 2 * planned.cache_bytes <= memory_bytes
    assert 1 <= planned.limits["max_running_requests"] <= min(128, planned.num_slots)


def test_more_beams_leave_fewer_slots(shape: Shape) -> None:
    narrow, wide = (
        make_plan(shape, Workload(source_len=64, max_length=64, num_beams=width), 2 * GiB, SETTINGS)
        for width in (1, 16)
    )
    assert narrow.num_slots > 4 * wide.num_slots


def test_too_little_memory_is_refused_with_what_is_needed(shape: Shape) -> None:
    with pytest.raises(PlanError, match=r"memory is 512 MiB: expected at least 1\.\d GiB"):
        make_plan(shape, Workload.usual(shape, SETTINGS), GiB // 2, SETTINGS)


def test_a_usual_request_is_what_the_checkpoint_asks_for(shape: Shape) -> None:
    usual = Workload.usual(shape, SETTINGS)

    assert usual == Workload(source_len=256, max_length=48, num_beams=4)
    assert usual.given(num_beams=2, source_len=None).num_beams == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a,b",), "expected one checkpoint, found 2"),
        (("summarize-en", "--memory", "much"), "--memory is 'much': expected bytes, as 8GiB"),
        (("summarize-en", "--memory", "100MB"), "expected at least"),
        (("./nowhere",), "no such folder"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)

    assert result.exit_code != 0
    assert message in result.output


def test_a_gpu_shares_its_memory_out_by_itself() -> None:
    planned = variables(run("summarize-en", "--device", "cuda", "--memory", "24GiB"))

    assert planned.keys() == {
        "TANDEM_MAX_RUNNING_REQUESTS",
        "TANDEM_MAX_WAITING_REQUESTS",
        "TANDEM_MAX_WAITING_TOKENS",
    }


def test_settings_of_the_checkpoint_count(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_text((SHIPPED / "summarize-en" / name).read_text())
    own = tmp_path / "checkpoints.toml"
    own.write_text(f"[{json.dumps(str(folder))}]\ngeneration = {{ num_beams = 2 }}\n")

    result = run(str(folder), "--memory", "4GB", "--checkpoints-file", str(own))

    assert "48 target tokens, 2 hypotheses" in result.output


def test_sizes_are_in_powers_of_1024() -> None:
    assert [size(each) for each in (0, 1023, 1536, 200 * 1024**2, 24 * GiB)] == [
        *("0 B", "1023 B", "1.5 KiB", "200 MiB", "24.0 GiB")
    ]
