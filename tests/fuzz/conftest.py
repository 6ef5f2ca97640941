from collections.abc import Iterator

import pytest

from tests.fuzz.in_process import Fuzzed, running


@pytest.fixture(scope="package")
def fuzzed() -> Iterator[Fuzzed]:
    """One app for all: loading the checkpoints takes longer than most tests."""
    with running() as app:
        yield app
