"""Memory that was freed and is still held by the process: given back to the system now and then."""

import ctypes
import time
from collections.abc import Callable

_PAUSE_S = 30.0
"""What is given back must be cleared again when it is needed: tens of milliseconds, so seldom."""


class FreedMemory:
    """Gives the system back, from time to time, what the C library keeps of freed blocks.

    The C library is told to keep them (`app/native_libraries.py`), since a step needs as much as
    the last. But what lives long comes to lie between them, the kernels that oneDNN makes for each
    new number of rows above all; then the holes are too small for the next large block, which
    takes new memory, and the process grows far beyond what it uses. Pages of holes can be given
    back wherever they lie.

    Nothing happens where the C library is not glibc.

    Source: malloc_trim(3).

    Args:
        clock: Seconds, from any beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = clock()
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if self._trim is not None:
            self._trim.argtypes = [ctypes.c_size_t]

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        return self._trim is not None and self._clock() >= self._due

    def give_back_if_due(self) -> None:
        """Give back what is free where it is time."""
        if self.is_due:
            self.give_back()

    def give_back(self) -> None:
        """Give back what is free; who allocates meanwhile waits, some 10 ms for each 100 MiB."""
        if self._trim is not None:
            self._trim(0)
        self._due = self._clock() + _PAUSE_S
