"""How the C libraries under torch use threads and memory."""

import ctypes
import os

from app.container_limits import cpu_quota

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h

WAIT_POLICY = "passive"
SPIN_COUNT = 10_000
"""Rounds that a thread waits actively before: a tenth of a millisecond (GNU's OpenMP)."""
NUM_HEAPS = 1
KEPT_BYTES = 256 * 2**20
"""Freed blocks up to this size stay in the process."""


def set_up_native_libraries() -> None:
    """Set what they read when they start: call it before anything imports torch."""
    _set_up_threads()
    _set_up_memory()


def _set_up_threads() -> None:
    # Threads that wait actively take the cores from the event loop and from every neighbour. A
    # tenth of a millisecond is no harm, and wakes nobody between the hundreds of small products of
    # a step.
    if os.environ.setdefault("OMP_WAIT_POLICY", WAIT_POLICY) == WAIT_POLICY:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    # torch counts the processors of the machine, not those that a container may use.
    if (quota := cpu_quota()) is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(quota))


def _set_up_memory() -> None:
    """Have the C library keep freed blocks, up to a size, and hand them out again.

    By itself it gives every block over 32 MiB, as the logits of a batch are, back to the system,
    which clears each page again when the next step writes to it: a fifth of a step. And the heaps
    of threads other than the main one are too small for such blocks: there is to be one heap.
    Nothing happens where the C library is not glibc.

    Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, NUM_HEAPS)
    mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
