"""What can go wrong, as a small tree; `app` turns it into HTTP in one place.

TandemError
├── CheckpointError              a checkpoint cannot be loaded or served
├── InvalidRequestError          the caller asked for something impossible
│   ├── InvalidParameterError    one field, its value, what was expected
│   ├── SourceTooLongError       more source tokens than the checkpoint has positions
│   ├── RequestTooLargeError     needs more cache than there is
│   └── UnknownLanguageError     a language (pair) that the checkpoint does not know
├── QueueFullError               refused early: no room to wait
│   └── DeadlineUnreachableError  refused early: it would be waited for in vain
├── DeadlineExceededError        accepted, but not finished in time
├── RequestFailedError           its own step raised; its batch mates go on
├── EngineClosedError            draining, stopped or dead: nothing new is taken
├── DeviceLostError              the device is of no use to this process any more: start another
└── WorkerLostError              a worker process has ended; another takes its place
    ├── WorkerKilledError        it was killed, as a rule for want of memory
    └── WorkerRestartedError     it ended while it did something else: nobody here is at fault
"""

import reprlib


class TandemError(Exception):
    """Base of every error that the engine raises on purpose."""


class CheckpointError(TandemError):
    """A checkpoint cannot be loaded: says what was expected and what was found."""


class InvalidRequestError(TandemError):
    """A request that can never be served as asked."""


class InvalidParameterError(InvalidRequestError):
    """One parameter is out of its bounds or not served.

    Attributes:
        field: Name of the parameter, as the caller wrote it.
        value: What was given.
        expected: What would have been accepted.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field} is {reprlib.repr(value)}: expected {expected}")
        self.field = field
        self.value = value
        self.expected = expected


class SourceTooLongError(InvalidRequestError):
    """A source has more tokens than the checkpoint's encoder has positions."""

    def __init__(self, source_tokens: int, max_source_tokens: int) -> None:
        super().__init__(
            f"the source has {source_tokens} tokens, the checkpoint takes {max_source_tokens}"
        )
        self.source_tokens = source_tokens
        self.max_source_tokens = max_source_tokens


class RequestTooLargeError(InvalidRequestError):
    """A request needs more cache bytes than the checkpoint may ever reserve."""

    def __init__(self, cost_bytes: int, max_cache_bytes: int) -> None:
        super().__init__(
            f"the request needs {cost_bytes} bytes of cache (source length, beams and maximum "
            f"length decide), the limit is {max_cache_bytes}"
        )
        self.cost_bytes = cost_bytes
        self.max_cache_bytes = max_cache_bytes


class UnknownLanguageError(InvalidRequestError):
    """A language, or a pair of them, that the checkpoint does not know.

    Attributes:
        field: `source_lang` or `target_lang`.
        value: What was given; None where it was left out but needed.
        known: The languages that would have been accepted.
    """

    def __init__(self, field: str, value: str | None, known: tuple[str, ...]) -> None:
        given = "missing" if value is None else f"{value!r}"
        super().__init__(f"{field} is {given}: expected one of {', '.join(known)}")
        self.field = field
        self.value = value
        self.known = known


class QueueFullError(TandemError):
    """Too many requests or source tokens are waiting already."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineUnreachableError(QueueFullError):
    """So much is waiting that the request would not be finished within its time."""

    def __init__(self, expected_s: float, retry_after_s: float) -> None:
        super().__init__(
            f"too much is waiting: an answer may come only after {expected_s:.1f} seconds, "
            "which is beyond the time of the request",
            retry_after_s,
        )


class DeadlineExceededError(TandemError):
    """The request's deadline passed before it was finished."""


class RequestFailedError(TandemError):
    """The request could not be decoded; `request_id` finds it in the log."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id} failed while it was decoded")
        self.request_id = request_id


class EngineClosedError(TandemError):
    """The engine takes nothing new: it is draining, stopped or dead."""


class DeviceLostError(TandemError):
    """The device failed for good, as after a sticky CUDA error: only a new process can use it."""


class WorkerLostError(TandemError):
    """A worker process has ended, and what it held is to be run again in another."""


class WorkerKilledError(WorkerLostError, MemoryError):
    """A worker process was killed: where the system lacks memory, it does that."""


class WorkerRestartedError(WorkerLostError):
    """A worker process ended while it worked for another checkpoint, and was started again."""
