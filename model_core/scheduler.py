"""Admission: which waiting requests join the batch at the next step. Numbers, no tensors."""

from dataclasses import dataclass, fields

from model_core.errors import DeadlineUnreachableError, QueueFullError, RequestTooLargeError
from model_core.fair_queue import FairQueue
from model_core.pace import ExpectedSteps, Pace, bounded_retry
from model_core.request import Prospect, Request

_PARTS = 4  # one part of the queue is kept for clients that have less than their share
# What encoding a token costs beside a row of a step: in common shapes a layer of an encoder and the
# projections of its outputs are half of a decoder's layer and its part of the output projection.
_ROWS_OF_SOURCE_TOKEN = 0.5
_SPREAD = 1.25  # times the expected time: a mean, which half of all requests exceed


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What one checkpoint may hold; every limit is at least one.

    Attributes:
        max_running_requests: Slots: requests that are decoded together.
        max_admitted_requests: Those, and others whose sources are encoded for the next slots, where
            encoding runs beside the steps; None: no others.
        max_cache_bytes: Cache bytes reserved by running requests; None where memory is no limit.
        max_encode_tokens: Source tokens that join in one iteration, so that encoding never
            starves what is running. A longer source joins alone.
        steps_between_admissions: While requests run others join in every step that is so many after
            the last, or once there are slots for about `max_encode_tokens` of them: where a pass
            of the encoder takes as long for a few sources as for one, they wait for company.
        max_waiting_requests: Requests that may wait.
        max_waiting_tokens: Source tokens that may wait. A longer source may wait alone.

    The last quarter of the queue is kept for clients that have less than an equal share of it.
    """

    max_running_requests: int = 32
    max_admitted_requests: int | None = None
    max_cache_bytes: int | None = None
    max_encode_tokens: int = 4096
    steps_between_admissions: int = 1
    max_waiting_requests: int = 512
    max_waiting_tokens: int = 131_072

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"{field.name} is {value}: expected at least 1")


@dataclass(slots=True)
class _Entry:
    """What a request holds or will hold.

    Attributes:
        cost_bytes: Of the caches.
        work: Rows that it is expected to send through the decoder, over all its steps.
    """

    cost_bytes: int
    work: float


def _load_of(request: Request, entry: _Entry) -> float:
    return entry.work + _ROWS_OF_SOURCE_TOKEN * request.source_len


class Scheduler:
    """The waiting queue and the running set of one checkpoint.

    The request whose turn it is (`FairQueue`) is never overtaken for being large, so nothing
    starves. Not thread-safe: the engine calls it under its lock.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self._queue = FairQueue()
        self._waiting: dict[Request, _Entry] = {}
        self._running: dict[Request, _Entry] = {}
        self._waiting_tokens = 0
        self._reserved_bytes = 0
        self._load = 0.0
        self._num_slots = limits.max_running_requests
        self._num_ends_since_shrunk = 0
        self._steps_since_admission = 0
        self._given_up: list[Request] = []
        self._pace = Pace()
        self._expected_steps = ExpectedSteps()

    @property
    def num_waiting(self) -> int:
        """Requests in the queue, or admitted beyond the slots."""
        return len(self._queue) + len(self._running) - self.num_running

    @property
    def num_running(self) -> int:
        """Requests that hold a slot."""
        return min(len(self._running), self._num_slots)

    @property
    def num_slots(self) -> int:
        """Requests that may hold a slot: as the limit says, or fewer after a lack of memory."""
        return self._num_slots

    @property
    def waiting_tokens(self) -> int:
        """Source tokens in the queue."""
        return self._waiting_tokens

    @property
    def reserved_bytes(self) -> int:
        """Cache bytes reserved by running requests."""
        return self._reserved_bytes

    @property
    def load(self) -> float:
        """What all requests are expected to cost, in rows that go through the decoder."""
        return self._load

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._running

    def enqueue(self, request: Request, cost_bytes: int, now: float) -> None:
        """Put a request at the end of its client's line.

        Raises:
            RequestTooLargeError: It would not fit if it ran alone.
            QueueFullError: Too many requests or source tokens are waiting already.
            DeadlineUnreachableError: At the measured pace it would not be finished in its time.
        """
        self._check_size(cost_bytes)
        steps = self._expected_steps.of(request)
        prospect = Prospect(
            deadline=request.deadline, client=request.client, priority=request.priority
        )
        self._check_room(prospect, steps, now)
        self._check_source(request, now)
        entry = _Entry(cost_bytes, steps * request.parameters.num_hypotheses)
        if not self._waiting:
            self._pace.queue_began(now)
        self._waiting[request] = entry
        self._load += _load_of(request, entry)
        self._queue.add(request, entry.work)
        self._waiting_tokens += request.source_len

    def check_room(self, prospect: Prospect, now: float) -> None:
        """Refuse a request that would have to wait for too long, before it is prepared.

        One that finds nobody waiting is always tried: a wrong measurement would never be put
        right otherwise.

        Args:
            prospect: What is known of it.
            now: On the clock of its deadline.

        Raises:
            QueueFullError: Too many requests are waiting already.
            DeadlineUnreachableError: At the measured pace it would not be finished in its time.
        """
        self._check_room(prospect, self._expected_steps.of_prospect(prospect), now)

    def _check_room(self, prospect: Prospect, steps: float, now: float) -> None:
        if not self._waiting:
            return
        num_waiting = len(self._queue) + prospect.num_ahead
        if num_waiting >= self._most_waiting(prospect.client, self._limits.max_waiting_requests):
            raise self._full(f"{num_waiting} requests are waiting", now)
        self._check_time(prospect, steps, now)

    def admit(self, now: float) -> tuple[Request, ...]:
        """Move the requests that join at the next step from waiting to running.

        Those that have too little time left are given up: to begin them would take the time of
        others, who then had too little left themselves.
        """
        admitted: list[Request] = []
        if self._waits_for_company:
            return ()
        encode_tokens = 0
        while self._queue:
            request = self._queue.next
            if self._is_hopeless(request, now):
                self.remove(request)
                self._given_up.append(request)
                continue
            encode_tokens += request.source_len
            if admitted and encode_tokens > self._limits.max_encode_tokens:
                break
            if not self._has_room_for(self._waiting[request].cost_bytes):
                break
            self._queue.take(request)
            self._start(request, now)
            admitted.append(request)
        if admitted:
            self._steps_since_admission = 0
        return tuple(admitted)

    @property
    def _waits_for_company(self) -> bool:
        limits = self._limits
        if not self._running or not self._queue:
            return False
        if self._steps_since_admission + 1 >= limits.steps_between_admissions:
            return False
        num_free = self._most_admitted - len(self._running)
        tokens_that_fit = self._waiting_tokens * min(1.0, num_free / len(self._queue))
        return tokens_that_fit < limits.max_encode_tokens

    def pop_given_up(self) -> tuple[Request, ...]:
        """Requests that have left the queue since the last call without their turn."""
        given_up = tuple(self._given_up)
        self._given_up.clear()
        return given_up

    def _is_hopeless(self, request: Request, now: float) -> bool:
        """Whether a request would be late; with slots for all that wait it is always tried.

        So it is before any request has ended: its steps would be taken to be the most that it may.
        """
        if len(self._waiting) + len(self._running) <= self._num_slots or len(self._queue) == 1:
            return False
        if not self._expected_steps.are_known:
            return False
        needed_s = self._pace.seconds_for_steps(_SPREAD * self._expected_steps.of(request))
        return now + needed_s > request.deadline

    def finish(self, request: Request, now: float, num_steps: int | None = None) -> None:
        """Free the slot of a running request that ended.

        Args:
            request: Which.
            now: When it ended.
            num_steps: Steps that it took; None where it failed, which says nothing of others.
        """
        entry = self._leave_batch(request)
        self._grow()
        if num_steps is not None:
            self._expected_steps.record(request, num_steps)
            # Where nobody waits, requests end as they come: that is no measure of what can be done.
            if self._waiting:
                self._pace.ended(now, entry.work)

    def stepped(self, now: float, row_steps: int) -> None:
        """Learn how fast the running requests come forward.

        Args:
            now: When the turn ended.
            row_steps: Hypotheses that went through the decoder, over all its steps; where not
                everybody took part, the others came forward by as much less.
        """
        self._steps_since_admission += 1
        num_rows = sum(each.parameters.num_hypotheses for each in self._running)
        if num_rows:
            share = self.num_running / len(self._running)  # the others wait for a slot
            self._pace.stepped(now, row_steps / (share * num_rows))

    def remove(self, request: Request) -> None:
        """Give up a waiting or running request."""
        if request in self._waiting:
            self._queue.remove(request)
            self._leave_queue(request)
        else:
            self._leave_batch(request)

    def promote(self, request: Request) -> None:
        """Let a bulk request that waits go with the interactive ones; others are left alone."""
        if request in self._waiting and request.priority == "bulk":
            self._queue.promote(request)

    def shrink(self, num_requests: int) -> None:
        """So many requests were more than the memory holds: run half as many from now on.

        One more is tried whenever as many have ended as may run.
        """
        self._num_slots = max(1, min(self._num_slots, num_requests // 2))
        self._num_ends_since_shrunk = 0

    def _grow(self) -> None:
        if self._num_slots == self._limits.max_running_requests:
            return
        self._num_ends_since_shrunk += 1
        if self._num_ends_since_shrunk >= self._num_slots:
            self._num_slots += 1
            self._num_ends_since_shrunk = 0

    def _start(self, request: Request, now: float) -> None:
        entry = self._leave_queue(request)
        self._load += _load_of(request, entry)
        if not self._running:
            self._pace.batch_began(now)
        self._running[request] = entry
        self._reserved_bytes += entry.cost_bytes

    def _leave_queue(self, request: Request) -> _Entry:
        self._waiting_tokens -= request.source_len
        return self._forget(self._waiting, request)

    def _leave_batch(self, request: Request) -> _Entry:
        entry = self._forget(self._running, request)
        self._reserved_bytes -= entry.cost_bytes
        return entry

    def _forget(self, entries: dict[Request, _Entry], request: Request) -> _Entry:
        entry = entries.pop(request)
        self._load = 0.0 if self.is_idle else self._load - _load_of(request, entry)
        return entry

    @property
    def _most_admitted(self) -> int:
        """With fewer slots than there may be, after a lack of memory, nobody is beyond them."""
        limits = self._limits
        if self._num_slots < limits.max_running_requests:
            return self._num_slots
        return max(self._num_slots, limits.max_admitted_requests or 0)

    def _has_room_for(self, cost_bytes: int) -> bool:
        if len(self._running) >= self._most_admitted:
            return False
        max_bytes = self._limits.max_cache_bytes
        return max_bytes is None or self._reserved_bytes + cost_bytes <= max_bytes

    def _check_size(self, cost_bytes: int) -> None:
        max_bytes = self._limits.max_cache_bytes
        if max_bytes is not None and cost_bytes > max_bytes:
            raise RequestTooLargeError(cost_bytes, max_bytes)

    def _check_source(self, request: Request, now: float) -> None:
        most = self._most_waiting(request.client, self._limits.max_waiting_tokens)
        if self._waiting and self._waiting_tokens + request.source_len > most:
            raise self._full(f"{self._waiting_tokens} source tokens are waiting", now)

    def _most_waiting(self, client: str, most: int) -> int:
        """How much of the queue may be full for a client to have a further place."""
        limits = self._limits
        if client and self._queue.has_share(
            client, limits.max_waiting_requests, limits.max_waiting_tokens
        ):
            return most - most // _PARTS
        return most

    def _full(self, reason: str, now: float) -> QueueFullError:
        retry_after_s = self._pace.retry_after(self._queue.work, now)
        return QueueFullError(f"the queue is full: {reason}", retry_after_s)

    def _check_time(self, prospect: Prospect, steps: float, now: float) -> None:
        if len(self._waiting) + len(self._running) < self._num_slots:
            return  # it begins at the next step
        work = self._queue.work_before(prospect.client, prospect.priority)
        # Those on their way may go before it, and are like those that wait.
        work += prospect.num_ahead * self._queue.work / len(self._queue)
        waiting_s = self._pace.seconds_for(work, now)
        if waiting_s is None:
            return
        expected_s = _SPREAD * (waiting_s + self._pace.seconds_for_steps(steps))
        late_s = now + expected_s - prospect.deadline
        if late_s > 0:
            raise DeadlineUnreachableError(expected_s, bounded_retry(late_s))
