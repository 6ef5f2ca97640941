"""Says in the log where a step is stuck."""

import logging
import sys
import traceback

from app.service import TextService
from model_core.engine import Engine

_logger = logging.getLogger(__name__)


class Watchdog:
    """Looks at the engines from time to time; `/health` fails meanwhile by itself."""

    def __init__(self, service: TextService) -> None:
        self._service = service
        self._reported: set[Engine] = set()

    def look(self) -> None:
        """Report each step that has become stuck since the last look, once, with its stack."""
        stuck = set(self._service.stuck)
        newly_stuck = stuck - self._reported
        for engine in newly_stuck:
            _logger.error("a step is stuck after %.0f s:\n%s", engine.turn_s, _stack_of(engine))
        if newly_stuck:
            for worker in self._service.routing.workers:
                worker.dump_stacks()  # an engine that waits for its worker shows nothing else
        for _ in self._reported - stuck:
            _logger.warning("a step that was stuck has ended")
        self._reported = stuck


def _stack_of(engine: Engine) -> str:
    frame = sys._current_frames().get(engine.thread_id or 0)
    return "".join(traceback.format_stack(frame)) if frame else "its thread is gone"
