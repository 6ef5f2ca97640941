"""Fixtures for every test."""

import os
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import settings

# Before torch is imported: tests share their cores with other work, and their models are tiny.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Before Triton is imported: where there is no GPU, its interpreter runs our kernels.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# `--hypothesis-profile=long` draws more, at random; what it finds becomes an example.
settings.register_profile("ci", derandomize=True, database=None, deadline=None)
settings.register_profile("long", database=None, deadline=None, print_blob=True)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("TANDEM_"):
            monkeypatch.delenv(name)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what one of several test processes compared; see pytest-xdist."""
    from tests.parity import TALLY, Tally

    if "tally" in (output := getattr(node, "workeroutput", {})):  # not of a process that crashed
        TALLY.add(Tally(**output["tally"]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this one, if there is one, what was compared here."""
    from tests.parity import TALLY

    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = asdict(TALLY)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many answers were compared, and show every tie that was excused."""
    from tests.parity import TALLY

    if TALLY.num_comparisons:
        terminalreporter.write_line(TALLY.summary())
    if TALLY.num_drawn_runs:
        terminalreporter.write_line(f"engine runs over drawn plans: {TALLY.num_drawn_runs}")
    for excuse in TALLY.excused:
        terminalreporter.write_line(f"  {excuse}")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
