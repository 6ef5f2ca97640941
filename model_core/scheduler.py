"""Admission: which waiting requests join the batch at the next step. Numbers, no tensors."""

from collections import OrderedDict, deque
from dataclasses import dataclass, fields

from model_core.errors import QueueFullError, RequestTooLargeError
from model_core.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What one checkpoint may hold; every limit is at least one.

    Attributes:
        max_running_requests: Slots: requests that are decoded together.
        max_cache_bytes: Cache bytes reserved by running requests; None where memory is no limit.
        max_encode_tokens: Source tokens that join in one iteration, so that encoding never
            starves what is running. A longer source joins alone.
        max_waiting_requests: Requests that may wait.
        max_waiting_tokens: Source tokens that may wait. A longer source may wait alone.
    """

    max_running_requests: int = 32
    max_cache_bytes: int | None = None
    max_encode_tokens: int = 4096
    max_waiting_requests: int = 512
    max_waiting_tokens: int = 131_072

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"{field.name} is {value}: expected at least 1")


class CompletionRate:
    """How fast requests have been ending lately, while there was work."""

    _WINDOW = 32  # completions: a few batches' worth, so that one slow request does not decide

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=self._WINDOW + 1)

    def restart(self, now: float) -> None:
        """Forget the past: an idle spell says nothing about speed."""
        self._times.clear()
        self._times.append(now)

    def record(self, now: float) -> None:
        """Count one completion."""
        self._times.append(now)

    def seconds_for(self, num_requests: int, now: float) -> float:
        """Time in which so many requests end at this rate, within [1, 60] s.

        Where none has ended yet, the first is taken to end now: an optimistic guess.
        """
        elapsed_s = now - self._times[0] if self._times else 0.0
        num_completed = max(1, len(self._times) - 1)
        return min(60.0, max(1.0, num_requests * elapsed_s / num_completed))


class Scheduler:
    """The waiting queue and the running set of one checkpoint.

    First come, first served: the head of the queue is never overtaken, so nothing starves.
    Not thread-safe: the engine calls it under its lock.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        # Request -> cost in cache bytes. A dict would leave a growing hole at its front.
        self._waiting: OrderedDict[Request, int] = OrderedDict()
        self._running: dict[Request, int] = {}
        self._waiting_tokens = 0
        self._reserved_bytes = 0
        self._completion_rate = CompletionRate()

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def waiting_tokens(self) -> int:
        """Source tokens in the queue."""
        return self._waiting_tokens

    @property
    def reserved_bytes(self) -> int:
        """Cache bytes reserved by running requests."""
        return self._reserved_bytes

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._running

    def enqueue(self, request: Request, cost_bytes: int, now: float) -> None:
        """Put a request at the end of the queue.

        Raises:
            RequestTooLargeError: It would not fit if it ran alone.
            QueueFullError: Too many requests or source tokens are waiting already.
        """
        self._check_size(cost_bytes)
        self._check_room(request, now)
        if self.is_idle:
            self._completion_rate.restart(now)
        self._waiting[request] = cost_bytes
        self._waiting_tokens += request.source_len

    def admit(self) -> tuple[Request, ...]:
        """Move the requests that join at the next step from waiting to running."""
        admitted: list[Request] = []
        encode_tokens = 0
        while self._waiting:
            request, cost_bytes = next(iter(self._waiting.items()))
            encode_tokens += request.source_len
            if admitted and encode_tokens > self._limits.max_encode_tokens:
                break
            if not self._has_slot_for(cost_bytes):
                break
            self._leave_queue(request)
            self._running[request] = cost_bytes
            self._reserved_bytes += cost_bytes
            admitted.append(request)
        return tuple(admitted)

    def finish(self, request: Request, now: float) -> None:
        """Free the slot of a running request that was completed."""
        self._leave_batch(request)
        self._completion_rate.record(now)

    def remove(self, request: Request) -> None:
        """Give up a waiting or running request."""
        if request in self._waiting:
            self._leave_queue(request)
        else:
            self._leave_batch(request)

    def _leave_queue(self, request: Request) -> None:
        del self._waiting[request]
        self._waiting_tokens -= request.source_len

    def _leave_batch(self, request: Request) -> None:
        self._reserved_bytes -= self._running.pop(request)

    def _has_slot_for(self, cost_bytes: int) -> bool:
        if len(self._running) >= self._limits.max_running_requests:
            return False
        max_bytes = self._limits.max_cache_bytes
        return max_bytes is None or self._reserved_bytes + cost_bytes <= max_bytes

    def _check_size(self, cost_bytes: int) -> None:
        max_bytes = self._limits.max_cache_bytes
        if max_bytes is not None and cost_bytes > max_bytes:
            raise RequestTooLargeError(cost_bytes, max_bytes)

    def _check_room(self, request: Request, now: float) -> None:
        tokens = self._waiting_tokens + request.source_len
        if len(self._waiting) >= self._limits.max_waiting_requests:
            reason = f"{len(self._waiting)} requests are waiting"
        elif self._waiting and tokens > self._limits.max_waiting_tokens:
            reason = f"{self._waiting_tokens} source tokens are waiting"
        else:
            return
        retry_after_s = self._completion_rate.seconds_for(len(self._waiting), now)
        raise QueueFullError(f"the queue is full: {reason}", retry_after_s)
