"""A server that cannot start says why, in one line, and ends with an error."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import SHIPPED
from tests.app.hub import hub
from tests.app.processes import LIMIT_S

WEIGHTS = "model.safetensors"


def failing(*command: str, stdout: int = subprocess.PIPE, **environment: str) -> str:
    """What a process says that ends by itself, with an error; all in one line."""
    done = subprocess.run(
        command,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode > 0, done.returncode
    *warnings, message = done.stderr.splitlines()
    # The library warns of a full disk before it is full; the log says that the server stops.
    usual = ("UserWarning", "warnings.warn", '"level": "info"')
    assert all(any(word in line for word in usual) for line in warnings), done.stderr
    return message


def serve(*flags: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "app",
        "serve",
        "--port",
        "0",
        "--summarize-model",
        "none",
        *flags,
    ]


def failing_server(*flags: str) -> str:
    return failing(*serve(*flags))


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = failing_server("--port", str(taken.getsockname()[1]))

    assert "in use" in message
    assert "TANDEM_PORT" in message


def test_an_address_that_is_not_of_this_machine() -> None:
    assert "TANDEM_HOST" in failing_server("--host", "192.0.2.1")


def test_a_folder_that_is_not_there() -> None:
    message = failing_server("--translate-model", "./nowhere")
    assert "./nowhere: expected a folder or a Hub id" in message


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(SHIPPED / "translate-en-de", folder)
    return folder


def truncate(weights: Path) -> None:
    os.truncate(weights, weights.stat().st_size // 2)


def truncate_to_nothing(weights: Path) -> None:
    os.truncate(weights, 0)


def overwrite_header(weights: Path) -> None:
    with weights.open("r+b") as file:
        file.write(b"\xff" * 64)


def leave_out(weights: Path) -> None:
    weights.unlink()


@pytest.mark.parametrize(
    "damage", [truncate, truncate_to_nothing, overwrite_header, leave_out], ids=lambda d: d.__name__
)
def test_weights_that_are_damaged_or_missing(
    checkpoint: Path, damage: Callable[[Path], None]
) -> None:
    damage(checkpoint / WEIGHTS)
    message = failing_server("--translate-model", str(checkpoint), "--workers", "0")
    assert str(checkpoint) in message
    assert "weights" in message or WEIGHTS in message


def test_weights_that_are_damaged_where_workers_load_them(checkpoint: Path) -> None:
    truncate(checkpoint / WEIGHTS)
    message = failing_server("--translate-model", str(checkpoint), "--workers", "2")
    assert message.startswith(f"Error: {checkpoint}: ")
    assert "weights" in message or WEIGHTS in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_is_cut_short(checkpoint: Path, name: str) -> None:
    if not (checkpoint / name).exists():
        pytest.skip(f"the checkpoint has no {name}")
    os.truncate(checkpoint / name, 20)
    assert str(checkpoint) in failing_server("--translate-model", str(checkpoint))


# The disk -----------------------------------------------------------------------------------------


def can_mount() -> bool:
    """Whether this machine lets a process have file systems of its own."""
    done = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [("size=256k", "No space left on device"), ("ro", "Read-only file system")],
    ids=["full", "read-only"],
)
def test_a_download_that_cannot_be_stored(options: str, reason: str) -> None:
    if not can_mount():
        pytest.skip("this machine lets nobody mount a file system")
    flags = serve("--translate-model", "acme/en-de")
    mount = f"mount -t tmpfs -o {options} none /mnt && exec {shlex.join(flags)}"
    with hub("acme/en-de", SHIPPED / "translate-en-de") as url:
        message = failing(
            *("unshare", "-rm", "sh", "-c", mount),
            HF_ENDPOINT=url,
            HF_HOME="/mnt/hub",
            HF_HUB_DISABLE_XET="1",
        )

    assert message.startswith("Error: acme/en-de: cannot store its files")
    assert reason in message


def test_a_full_disk_under_standard_output() -> None:
    with Path("/dev/full").open("w") as full:
        message = failing(*serve(), stdout=full.fileno())

    assert "cannot write to standard output: No space left on device" in message
