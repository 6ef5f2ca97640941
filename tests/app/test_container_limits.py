from pathlib import Path

import pytest

from app.container_limits import available_memory, cpu_quota


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_quota_of_processors_is_read_in_either_version(
    files: dict[str, str], quota: int | None, tmp_path: Path
) -> None:
    write(tmp_path, files)

    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_is_what_the_container_may_have(name: str, tmp_path: Path) -> None:
    machine = available_memory(tmp_path)
    write(tmp_path, {name: "123456789\n"})

    assert available_memory(tmp_path) == 123456789 < machine


def test_an_unbounded_container_has_the_memory_of_its_machine(tmp_path: Path) -> None:
    machine = available_memory(tmp_path)
    write(tmp_path, {"memory.max": "max\n"})

    assert available_memory(tmp_path) == machine


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
