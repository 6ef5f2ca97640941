"""The loop: admit, encode, step, deliver, for several checkpoints that share a device."""

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Literal

from model_core.errors import (
    DeadlineExceededError,
    DeviceLostError,
    EngineClosedError,
    InvalidParameterError,
    RequestFailedError,
)
from model_core.generation import GenerationParameters
from model_core.in_flight import Subscription
from model_core.isolation import IsolatingRunner
from model_core.ledger import EngineStats, Ledger
from model_core.observer import EngineObserver, NullObserver, Outcome
from model_core.request import Output, Priority, Prospect, Request, RequestStatus
from model_core.runner import ModelRunner, StepReport
from model_core.scheduler import EngineLimits

_logger = logging.getLogger(__name__)
_request_numbers = itertools.count(1)

Condition = Literal["ready", "rebuilding", "dead", "lost"]

_MAX_DEATHS = 3  # of the loop within the time below: then it is not worth a further attempt
_DEATHS_WITHIN_S = 60.0


class _Served:
    """One checkpoint: its runner, for the loop's thread, and its ledger, under the lock."""

    def __init__(self, name: str, runner: ModelRunner, limits: EngineLimits) -> None:
        self.name = name
        self.runner = IsolatingRunner(runner)
        self.ledger = Ledger(limits)


class Engine:
    """Serves checkpoints that share a device and a thread; they take turns, a step each.

    Callers on any thread submit and cancel; one thread, the loop's, owns the runners. Tests call
    `step` instead of `start`. One lock guards the ledgers; it is never held while a runner works
    or a future's callbacks run.
    """

    def __init__(
        self,
        runners: Mapping[str, ModelRunner],
        limits: EngineLimits | Mapping[str, EngineLimits],
        *,
        observer: EngineObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve the runners, by checkpoint name.

        Args:
            runners: Nobody else may call them, apart from `cost_bytes`.
            limits: Of each checkpoint, not of all together: the same for all, or by name.
            observer: Is told what happens; by default nobody.
            clock: Seconds; deadlines are on it.
        """
        self._runners = dict(runners)
        self._limits = (
            dict.fromkeys(runners, limits) if isinstance(limits, EngineLimits) else dict(limits)
        )
        self._observer = observer or NullObserver()
        self._clock = clock
        self._changed = threading.Condition()  # its lock is the engine's lock
        self._state: Literal["open", "draining", "closed"] = "open"
        self._is_rebuilding = False
        self._is_lost = False
        self._deaths: deque[float] = deque(maxlen=_MAX_DEATHS + 1)
        self._turn_began: float | None = None
        self._num_unended = 0
        self._thread: threading.Thread | None = None
        self._served = self._new_served()

    def submit(
        self,
        model: str,
        source_ids: Sequence[int],
        parameters: GenerationParameters,
        *,
        deadline: float | None = None,
        client: str = "",
        priority: Priority = "interactive",
    ) -> Future[Output]:
        """Accept a request, from any thread; identical requests in flight share the work.

        Args:
            model: Name of one of the runners.
            source_ids: Encoder-side tokens, special tokens included.
            parameters: Fully resolved.
            deadline: On the engine's clock (`time.monotonic`), for this caller alone.
            client: Whose turn it takes; empty where nobody is named.
            priority: Its class.

        Returns:
            A future that ends exactly once. Cancelling it gives the work up, unless somebody else
            waits for the same; `asyncio.wrap_future` passes a cancellation on.

        Raises:
            InvalidRequestError: It can never be served.
            QueueFullError: Too much is waiting, or too much for its deadline.
            DeadlineExceededError: The deadline has passed already.
            EngineClosedError: The engine takes nothing new.
        """
        request = self._new_request(source_ids, parameters, deadline)
        request.client = client
        request.priority = priority
        cost_bytes = self._runner_of(model).cost_bytes(request)
        with self._changed:
            if self._state != "open":
                raise EngineClosedError(f"the engine is {self._state}")
            if self._is_rebuilding:
                raise EngineClosedError("the engine is being rebuilt")
            served = self._served[model]
            subscription = served.ledger.subscribe(request, cost_bytes)
            self._num_unended += 1
            self._changed.notify_all()
        if subscription.request is not request:
            self._observer.coalesced(model)
        subscription.future.add_done_callback(partial(self._on_done, served, subscription))
        return subscription.future

    def check_room(self, model: str, prospect: Prospect) -> None:
        """Refuse a request that would be refused; spares the work of preparing it.

        Args:
            model: See `submit`.
            prospect: What is known of the request.

        Raises:
            QueueFullError: Too much is waiting, or too much for its deadline.
        """
        with self._changed:
            self._served[model].ledger.check_room(prospect, self._clock())

    def has(self, model: str, source_ids: Sequence[int], parameters: GenerationParameters) -> bool:
        """Whether such a request is in flight, so that another one shares its work."""
        with self._changed:
            return self._served[model].ledger.has(tuple(source_ids), parameters)

    @property
    def load(self) -> float:
        """See `Scheduler.load`; of all checkpoints."""
        with self._changed:
            return sum(served.ledger.load for served in self._served.values())

    def stats(self, model: str) -> EngineStats:
        """The load of one checkpoint."""
        with self._changed:
            return self._served[model].ledger.stats

    @property
    def is_alive(self) -> bool:
        """Whether the loop runs in its thread."""
        thread = self._thread
        return thread is not None and thread.is_alive() and self._state != "closed"

    @property
    def condition(self) -> Condition:
        """Whether requests are decoded, will be soon, never again, or only by another process."""
        if self._is_lost:
            return "lost"
        if not self.is_alive:
            return "dead"
        return "rebuilding" if self._is_rebuilding else "ready"

    @property
    def turn_s(self) -> float:
        """How long the turn of a checkpoint that is under way has taken so far, in seconds."""
        began = self._turn_began
        return 0.0 if began is None else self._clock() - began

    @property
    def thread_id(self) -> int | None:
        """Of the loop's thread, to look at its stack; None where it does not run."""
        return None if self._thread is None else self._thread.ident

    @property
    def is_draining(self) -> bool:
        """Whether nothing new is taken while what was accepted is finished."""
        return self._state == "draining"

    def start(self) -> None:
        """Run the loop in a thread of its own; also again, after it died or was closed.

        Raises:
            RuntimeError: Its former thread still runs; `close` waits for it.
        """
        if self._thread is not None and self._thread.is_alive():
            raise RuntimeError("the engine's thread is still running")
        if self._state == "closed":
            for runner in self._runners.values():
                runner.reset()
            self._state = "open"
            self._deaths.clear()
        self._thread = threading.Thread(target=self._run_loop, name="tandem-engine", daemon=True)
        self._thread.start()

    def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests and wait for those in flight.

        Returns:
            Whether all of them ended within `timeout` seconds.
        """
        with self._changed:
            if self._state == "open":
                self._state = "draining"
            return self._changed.wait_for(lambda: self._num_unended == 0, timeout)

    def close(self, timeout: float | None = None) -> None:
        """Stop the loop after its current step; what is in flight ends with EngineClosedError.

        Args:
            timeout: Seconds to wait for that step; then its requests are ended without it.
        """
        with self._changed:
            self._state = "closed"
            for served in self._served.values():
                for request in served.ledger.requests:
                    request.deadline = -math.inf  # a long step that looks can stop
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        self._close_for_good()

    def step(self) -> bool:
        """One iteration of the loop: every checkpoint that has work takes one turn.

        Returns:
            Whether there was any work.
        """
        busy = [served for served in self._served.values() if served.ledger.has_work]
        for served in busy:
            self._turn_began = self._clock()
            self._take_turn(served)
        self._turn_began = None
        return bool(busy)

    def _take_turn(self, served: _Served) -> None:
        """Drop who left, admit who fits, encode them, step everybody, deliver who finished."""
        self._drop(served)
        self._encode(served, self._admit(served))
        self._deliver(served, self._decode(served))

    def _drop(self, served: _Served) -> None:
        now = self._clock()
        with self._changed:
            expired = served.ledger.expire(now)
            leaving = served.ledger.leaving
        for subscription in expired:
            subscription.fail(DeadlineExceededError("the deadline passed before the end"))
        served.runner.remove(leaving)
        with self._changed:
            for request in leaving:
                served.ledger.vacate(request)

    def _admit(self, served: _Served) -> tuple[Request, ...]:
        if served.runner.is_isolating:
            return ()
        now = self._clock()
        with self._changed:
            admitted = served.ledger.admit(now)
            given_up = served.ledger.give_up()
        for subscription in given_up:
            subscription.fail(DeadlineExceededError("there was too little time left to begin"))
        for request in admitted:
            request.admitted_at = now
            self._observer.admitted(served.name, now - request.submitted_at)
        return admitted

    def _encode(self, served: _Served, admitted: tuple[Request, ...]) -> None:
        started = self._clock()
        report = served.runner.admit(admitted)
        now = self._clock()
        for request in admitted:
            request.encoded_at = now
        if report.num_encoded or report.num_cached:
            self._observer.encoded(served.name, report, now - started)

    def _decode(self, served: _Served) -> StepReport:
        started = self._clock()
        report = served.runner.step()
        now = self._clock()
        if report.num_rows:
            seconds = (now - started) / report.num_steps
            self._observer.stepped(served.name, report.num_rows, seconds)
            with self._changed:
                served.ledger.stepped(now, report.num_rows * report.num_steps)
        return report

    def _deliver(self, served: _Served, report: StepReport) -> None:
        if overload := served.runner.pop_overload():
            _logger.error("%s: memory lacked for %d requests", served.name, overload)
            with self._changed:
                served.ledger.shrink(overload)
        now = self._clock()
        for request, output in report.finished:
            output = replace(output, timing=request.timing(now))
            for subscription in self._end(
                served, request, RequestStatus.FINISHED, len(output.best.token_ids)
            ):
                subscription.answer(output)
        for request in served.runner.pop_failed():
            for subscription in self._end(served, request, RequestStatus.FAILED):
                subscription.fail(RequestFailedError(request.request_id))

    def _run_loop(self) -> None:
        try:
            while not self._run_until_closed():
                self._rebuild()
        except DeviceLostError:
            _logger.exception("the device is lost")
            self._is_lost = True
        except Exception:
            _logger.exception("the engine cannot be rebuilt")
        finally:
            self._close_for_good()

    def _run_until_closed(self) -> bool:
        """Whether the loop ended because it was told to, and did not die."""
        try:
            while self._wait_for_work():
                self.step()
        except DeviceLostError:
            raise
        except Exception:
            _logger.exception("the engine's loop died")
            return False
        return True

    def _rebuild(self) -> None:
        """Begin afresh over the loaded checkpoints; what was in flight ends with an error."""
        now = self._clock()
        self._deaths.append(now)
        self._turn_began = None
        self._is_rebuilding = True
        self._end_everything()
        if len(self._deaths) > _MAX_DEATHS and now - self._deaths[0] < _DEATHS_WITHIN_S:
            raise RuntimeError(f"the loop died {len(self._deaths)} times")
        for runner in self._runners.values():
            runner.reset()
        self._is_rebuilding = False
        _logger.warning("the engine was rebuilt")

    def _wait_for_work(self) -> bool:
        """Block while nothing is in flight; false once the engine was closed.

        A deadline needs no alarm of its own: while a request is in flight the loop is awake.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._state == "closed"
                    or any(served.ledger.has_work for served in self._served.values())
                )
            )
            return self._state != "closed"

    def _new_served(self) -> dict[str, _Served]:
        runners = self._runners.items()
        return {name: _Served(name, runner, self._limits[name]) for name, runner in runners}

    def _new_request(
        self, source_ids: Sequence[int], parameters: GenerationParameters, deadline: float | None
    ) -> Request:
        if not source_ids:
            raise InvalidParameterError("source_ids", source_ids, "at least one token")
        now = self._clock()
        if deadline is not None and deadline <= now:
            raise DeadlineExceededError("the deadline had passed when the request came")
        return Request(
            request_id=f"req-{next(_request_numbers)}",
            source_ids=tuple(source_ids),
            parameters=parameters,
            submitted_at=now,
            deadline=math.inf if deadline is None else deadline,
        )

    def _runner_of(self, model: str) -> ModelRunner:
        if model not in self._runners:
            raise InvalidParameterError("model", model, f"one of {', '.join(self._runners)}")
        return self._runners[model]

    def _end(
        self,
        served: _Served,
        request: Request,
        status: RequestStatus,
        num_steps: int | None = None,
    ) -> frozenset[Subscription]:
        now = self._clock()
        with self._changed:
            return served.ledger.end(request, status, now, num_steps)

    def _on_done(self, served: _Served, subscription: Subscription, future: Future[Output]) -> None:
        """Count an ended future, and take back one that its caller cancelled."""
        with self._changed:
            if future.cancelled():
                served.ledger.unsubscribe(subscription)
            self._num_unended -= 1
            if self._num_unended == 0:
                self._changed.notify_all()  # whoever drains
        outcome, output = _outcome_of(future)
        self._observer.ended(served.name, outcome, output)

    def _close_for_good(self) -> None:
        with self._changed:
            self._state = "closed"
            self._turn_began = None
            self._is_rebuilding = False
        self._end_everything()

    def _end_everything(self) -> None:
        """End every request with an error and begin afresh: the loop is gone, or hangs."""
        with self._changed:
            waiting = [each for served in self._served.values() for each in served.ledger.end_all()]
            self._served = self._new_served()
        for subscription in waiting:
            subscription.fail(EngineClosedError("the engine stopped before the end"))


def _outcome_of(future: Future[Output]) -> tuple[Outcome, Output | None]:
    if future.cancelled():
        return "cancelled", None
    error = future.exception()
    if error is None:
        return "finished", future.result()
    return ("expired" if isinstance(error, DeadlineExceededError) else "failed"), None
