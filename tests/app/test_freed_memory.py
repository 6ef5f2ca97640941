"""Freed memory goes back to the system, in processes of their own."""

import os
import subprocess
import sys

import pytest

_HOLES = """
from pathlib import Path
from resource import getpagesize
from app.native_libraries import set_up_native_libraries
set_up_native_libraries()
import torch
from app.freed_memory import FreedMemory

def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * getpagesize() / 2**20

now = 0.0
freed = FreedMemory(lambda: now)
freed.give_back()
before = resident_mib()
kept = []
for size in range(1, 17):  # each block is too large for the hole that the last one left
    torch.ones(size, 2**20, dtype=torch.uint8)
    kept.append(torch.ones(2**16, dtype=torch.uint8))
print(resident_mib() - before)
print(int(freed.is_due))
now = 30.0
print(int(freed.is_due))
freed.give_back()
print(resident_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="says what glibc does")
def test_holes_between_blocks_that_stay_are_given_back_once_it_is_time() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _HOLES],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # the stacks of others would count
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    grown, due_before, due_then, given_back = map(float, run.stdout.split())
    assert grown > 50, "the C library keeps what was freed"
    assert (due_before, due_then) == (0, 1)
    assert given_back < 10, "sixteen small blocks are all that is in use"
