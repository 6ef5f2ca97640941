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
    planned = variables(run("summarize-en", "--memory", "4GiB", "--workers", "2"))
    for name, value in planned.items():
        monkeypatch.setenv(name, value)

    settings = Settings.from_environment()

    assert 1 < settings.max_running_requests < 128
    assert settings.max_waiting_requests == 2 * 8 * settings.max_running_requests
    assert settings.max_cache_bytes < 1 * GiB
    assert settings.workers == 2


@pytest.mark.parametrize(
    ("memory_bytes", "num_workers"),
    [(int(1.5 * GiB), 0), (2 * GiB, 0), (4 * GiB, 2), (64 * GiB, 0), (64 * GiB, 8)],
)
def test_a_plan_stays_within_the_memory(shape: Shape, memory_bytes: int, num_workers: int) -> None:
    workload = Workload(source_len=256, max_length=64, num_beams=16)
    planned = make_plan(shape, workload, memory_bytes, SETTINGS, num_workers=num_workers)

    caches = max(1, num_workers) * planned.cache_bytes
    assert planned.fixed_bytes + 2 * caches <= memory_bytes
    assert 1 <= planned.limits["max_running_requests"] <= min(128, planned.num_slots)


def test_each_worker_has_its_weights_and_its_part_of_the_caches(shape: Shape) -> None:
    workload = Workload.usual(shape, SETTINGS)
    one, two, three = (
        make_plan(shape, workload, 6 * GiB, SETTINGS, num_workers=num_workers)
        for num_workers in (1, 2, 3)
    )

    weights = shape.weight_bytes + shape.copied_bytes
    assert two.fixed_bytes - one.fixed_bytes == three.fixed_bytes - two.fixed_bytes > weights
    assert 3 * three.num_slots < 2 * two.num_slots < one.num_slots


def test_running_requests_are_planned_for_each_worker_and_waiting_ones_for_all(
    shape: Shape,
) -> None:
    planned = make_plan(shape, Workload.usual(shape, SETTINGS), 64 * GiB, SETTINGS, num_workers=3)

    assert planned.limits["max_running_requests"] == 128
    assert planned.limits["max_waiting_requests"] == 3 * 8 * 128
    assert planned.limits["workers"] == 3


def test_the_server_takes_memory_beside_its_workers(shape: Shape) -> None:
    workload = Workload.usual(shape, SETTINGS)
    alone, beside = (
        make_plan(shape, workload, 6 * GiB, SETTINGS, num_workers=num_workers)
        for num_workers in (0, 1)
    )

    assert alone.fixed_bytes < beside.fixed_bytes


@pytest.mark.parametrize(
    ("arguments", "num_workers"),
    [
        (("--workers", "3"), "3"),
        (("--workers", "0"), "0"),
        (("--num-threads", "1"), "1"),
        (("--num-threads", "8"), "2"),
    ],
)
def test_workers_are_those_of_the_server(arguments: tuple[str, ...], num_workers: str) -> None:
    planned = variables(run("summarize-en", "--memory", "16GiB", *arguments))

    assert planned["TANDEM_WORKERS"] == num_workers


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
        (("summarize-en", "--memory", "1GB", "--workers", "2"), "in each of 2 workers"),
        (("summarize-en", "--device", "cuda", "--workers", "2"), "TANDEM_WORKERS is 2: expected 0"),
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
