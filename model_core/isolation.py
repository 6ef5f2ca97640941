"""Finding the request at fault when an encoder pass or a step raises."""

import logging
from collections import deque
from collections.abc import Sequence

from model_core.errors import DeviceLostError, WorkerLostError, WorkerRestartedError
from model_core.memory import is_out_of_memory
from model_core.request import Request
from model_core.runner import EncodeReport, ModelRunner, StepReport

_logger = logging.getLogger(__name__)

_Requests = tuple[Request, ...]


class IsolatingRunner:
    """A model runner whose failures cost only the request at fault.

    When the runner raises, everything it held is suspect: the runner is reset and the suspects
    are re-run from their sources, half of them at a time, and halves that fail are halved again.
    A request that fails alone is at fault; the others finish as if nothing had happened. A failure
    that comes from the size of the batch, such as a lack of memory, heals in this way too, and
    `pop_overload` tells how many were too many. A worker that ends may have been killed by anybody:
    a request that was alone in it is run once more. A device that is lost is nobody's fault: that
    error goes on to the engine.

    Meanwhile nothing else may be admitted (`is_isolating`): a suspect in ever new company would
    never be found. Called by the engine's thread only.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._running: dict[Request, None] = {}  # a set that keeps the order of admission
        self._suspects: deque[_Requests] = deque()
        self._failed: list[Request] = []
        self._overload = 0  # how many lacked memory together, until it is known who is at fault
        self._too_many = 0
        self._is_isolating = False

    @property
    def is_isolating(self) -> bool:
        """Whether suspects are being re-run, so that no other request may be admitted."""
        return self._is_isolating

    def admit(self, requests: _Requests) -> EncodeReport:
        """Encode new requests; while isolating there are none, and suspects take their turn."""
        assert not (requests and self._is_isolating), "a request would join suspects"
        newcomers = self._next_suspects() if self._is_isolating else requests
        if not newcomers:
            return EncodeReport()
        earlier = tuple(self._running)
        self._running.update(dict.fromkeys(newcomers))
        try:
            return self._runner.admit(newcomers)
        except DeviceLostError:
            raise
        except Exception as error:
            _logger.exception("encoding failed with requests %s", _ids(newcomers))
            self._note_overload(error)
            self._isolate(error, *((earlier, newcomers) if earlier else _halves(newcomers)))
            return EncodeReport()

    def step(self) -> StepReport:
        """Run one decoder step; a step that raises finishes nothing."""
        if not self._running:
            return StepReport((), 0)
        try:
            report = self._runner.step()
        except DeviceLostError:
            raise
        except Exception as error:
            _logger.exception("a step failed with requests %s", _ids(self._running))
            self._note_overload(error)
            self._isolate(error, *_halves(tuple(self._running)))
            return StepReport((), 0)
        for request in (*report.failed, *(request for request, _ in report.finished)):
            del self._running[request]
        if report.failed:
            _logger.error("no finite score for requests %s", _ids(report.failed))
            self._failed.extend(report.failed)
        self._end_isolation_if_done()
        return report

    def remove(self, requests: Sequence[Request]) -> None:
        """Give up requests wherever they are: running, or waiting as suspects."""
        if not requests:
            return
        gone = set(requests)
        self._suspects = deque(
            tuple(each for each in group if each not in gone) for group in self._suspects
        )
        admitted = [request for request in requests if request in self._running]
        for request in admitted:
            del self._running[request]
        self._remove_from_runner(admitted)
        self._end_isolation_if_done()

    def pop_failed(self) -> _Requests:
        """The requests found at fault since the last call; they have left the runner."""
        failed = tuple(self._failed)
        self._failed.clear()
        return failed

    def pop_overload(self) -> int:
        """How many requests lacked memory together since the last call; 0 where none did.

        Where one of them lacks it alone too, it is at fault, and not their number.
        """
        too_many, self._too_many = self._too_many, 0
        return too_many

    def _note_overload(self, error: Exception) -> None:
        if is_out_of_memory(error) and not self._is_isolating and len(self._running) > 1:
            self._overload = len(self._running)

    def _may_be_of_others(self, error: Exception) -> bool:
        """Whether even a request that was alone may have nothing to do with an error."""
        if isinstance(error, WorkerRestartedError):
            return True
        return isinstance(error, WorkerLostError) and not self._is_isolating

    def _next_suspects(self) -> _Requests:
        return self._suspects.popleft() if self._suspects and not self._running else ()

    def _isolate(self, error: Exception, *groups: _Requests) -> None:
        """Re-run the groups one after the other; a request that was alone is at fault."""
        self._running.clear()
        self._runner.reset()
        suspects = [group for group in groups if group]
        if sum(map(len, suspects)) == 1 and not self._may_be_of_others(error):
            self._failed.extend(suspects[0])
            self._overload = 0
        else:
            self._suspects.extendleft(reversed(suspects))
            self._is_isolating = True
        self._end_isolation_if_done()

    def _remove_from_runner(self, admitted: Sequence[Request]) -> None:
        if not admitted:
            return
        try:
            self._runner.remove(admitted)
        except DeviceLostError:
            raise
        except Exception:
            # Nobody left in the batch is at fault, but the runner's state is unknown.
            _logger.exception("removing requests %s failed", _ids(admitted))
            remaining = tuple(self._running)
            self._running.clear()
            self._runner.reset()
            self._suspects.appendleft(remaining)
            self._is_isolating = True

    def _end_isolation_if_done(self) -> None:
        if not self._running and not any(self._suspects):
            self._suspects.clear()
            self._is_isolating = False
            self._too_many, self._overload = self._overload or self._too_many, 0


def _halves(requests: _Requests) -> tuple[_Requests, _Requests]:
    middle = len(requests) // 2
    return requests[:middle], requests[middle:]


def _ids(requests: Sequence[Request] | dict[Request, None]) -> str:
    return ", ".join(request.request_id for request in requests)
