"""A worker process with faults: a source that begins with one of these brings that fault about.

`python -m tests.model_core.faulty_worker SOCKET`; what is broken is the real code at the real
place.
"""

import os
import signal
import sys
from multiprocessing.connection import Connection

from torch import Tensor

from model_core.group import Chosen, Group
from model_core.workers.loop import run_worker

RAISES, RAISES_UNPICKLABLE, CRASHES = ((token,) * 3 for token in (121, 122, 123))
_AFTER_STEPS = 3

_choose = Group.choose


class UnpicklableError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def _choose_with_faults(self: Group, logits: Tensor) -> Chosen:
    positions = self.search.positions.tolist()
    for slot, request in enumerate(self.requests):
        if positions[slot] < _AFTER_STEPS:
            continue
        fault = request.source_ids[:3]
        if fault == RAISES:
            raise ValueError("a mistake of the search")
        if fault == RAISES_UNPICKLABLE:
            raise UnpicklableError("this", "that")
        if fault == CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
    return _choose(self, logits)


Group.choose = _choose_with_faults  # type: ignore[method-assign]

if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as connection:
        run_worker(connection, between=lambda: None)
