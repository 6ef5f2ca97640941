"""What the C libraries do after `set_up_native_libraries`, in processes of their own."""

import os
import subprocess
import sys

import pytest

_REFILLS = """
import resource, threading
from app.native_libraries import set_up_native_libraries
set_up_native_libraries()
import torch

def fill(num_bytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(num_bytes, dtype=torch.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults / (num_bytes / resource.getpagesize())

def work():
    fill(96 * 2**20)  # more than the C library keeps by itself
    print(fill(64 * 2**20))

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""

_NUM_THREADS = """
import os, time
from app.native_libraries import set_up_native_libraries
set_up_native_libraries()
import torch
from model_core.own_thread import in_thread_of_its_own

num_threads = lambda: len(os.listdir("/proc/self/task"))
before = num_threads()
in_thread_of_its_own(lambda: torch.ones(2**22).sum())()
give_up = time.monotonic() + 30
while num_threads() > before and time.monotonic() < give_up:
    os.sched_yield()
print(num_threads() - before)
torch.ones(2**22).sum()
print(num_threads() - before)
"""


def run(code: str, **environment: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return run.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="says what glibc does")
def test_a_large_block_that_was_freed_is_handed_out_again_in_any_thread() -> None:
    (refilled,) = run(_REFILLS)
    assert float(refilled) < 0.1, "pages that the system had to clear again"


@pytest.mark.skipif(sys.platform != "linux", reason="says what libgomp does")
def test_openmp_threads_end_with_the_thread_that_used_them() -> None:
    assert run(_NUM_THREADS, OMP_NUM_THREADS="2") == ["0", "1"]
