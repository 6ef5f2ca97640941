"""Fixtures for every test."""

import os

import pytest

# Before torch is imported: tests share their cores with other work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("TANDEM_"):
            monkeypatch.delenv(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many answers were compared, and show every tie that was excused."""
    from tests.parity import TALLY

    if TALLY.num_comparisons:
        terminalreporter.write_line(TALLY.summary())
    for excuse in TALLY.excused:
        terminalreporter.write_line(f"  {excuse}")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
