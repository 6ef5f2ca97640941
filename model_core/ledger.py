"""The life of one checkpoint's requests, from the queue to their end."""

from dataclasses import dataclass

from model_core.generation import GenerationParameters
from model_core.in_flight import InFlight, Subscription
from model_core.request import Prospect, Request, RequestStatus
from model_core.scheduler import EngineLimits, Scheduler


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One checkpoint's load at one moment.

    Attributes:
        waiting: Requests in the queue.
        running: Requests that hold a slot.
        slots_total: Slots there are; fewer than the limit after a lack of memory.
        waiting_tokens: Source tokens in the queue.
        reserved_bytes: Cache bytes reserved by running requests.
    """

    waiting: int
    running: int
    slots_total: int
    waiting_tokens: int
    reserved_bytes: int

    def __add__(self, other: "EngineStats") -> "EngineStats":
        return EngineStats(
            waiting=self.waiting + other.waiting,
            running=self.running + other.running,
            slots_total=self.slots_total + other.slots_total,
            waiting_tokens=self.waiting_tokens + other.waiting_tokens,
            reserved_bytes=self.reserved_bytes + other.reserved_bytes,
        )


class Ledger:
    """Joins the scheduler and the subscriptions, and writes every status.

        WAITING ── admit ──▶ RUNNING ── end ──▶ FINISHED | FAILED
           └────── last caller left ──┴───────▶ CANCELLED

    A running request that its last caller has left keeps its slot until the engine's thread has
    taken it out of the runner (`leaving`, then `vacate`). Not thread-safe: the engine calls it
    under its lock.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self._scheduler = Scheduler(limits)
        self._in_flight = InFlight()
        self._leaving: dict[Request, None] = {}  # a set that keeps its order

    @property
    def has_work(self) -> bool:
        """Whether anything waits or holds a slot."""
        return not self._scheduler.is_idle

    @property
    def stats(self) -> EngineStats:
        """The load at this moment."""
        return EngineStats(
            waiting=self._scheduler.num_waiting,
            running=self._scheduler.num_running,
            slots_total=self._scheduler.num_slots,
            waiting_tokens=self._scheduler.waiting_tokens,
            reserved_bytes=self._scheduler.reserved_bytes,
        )

    @property
    def load(self) -> float:
        """See `Scheduler.load`."""
        return self._scheduler.load

    @property
    def requests(self) -> tuple[Request, ...]:
        """Requests that somebody waits for."""
        return self._in_flight.requests

    def has(self, source_ids: tuple[int, ...], parameters: GenerationParameters) -> bool:
        """Whether such a request is in flight."""
        return self._in_flight.has(source_ids, parameters)

    @property
    def leaving(self) -> tuple[Request, ...]:
        """Cancelled requests that still hold a slot."""
        return tuple(self._leaving)

    def subscribe(self, request: Request, cost_bytes: int) -> Subscription:
        """Let a caller wait for an identical request in flight, or else for this one.

        Raises:
            RequestTooLargeError: It can never fit.
            QueueFullError: Too much is waiting.
        """
        shared = self._in_flight.find_identical(request)
        if shared is None:
            self._scheduler.enqueue(request, cost_bytes, request.submitted_at)
            self._in_flight.add(request)
        elif request.priority == "interactive":
            self._scheduler.promote(shared)
        return self._in_flight.subscribe(shared or request, request.deadline)

    def check_room(self, prospect: Prospect, now: float) -> None:
        """See `Scheduler.check_room`."""
        self._scheduler.check_room(prospect, now)

    def unsubscribe(self, subscription: Subscription) -> None:
        """A caller cancelled; nothing happens where the request has ended already."""
        self._in_flight.unsubscribe(subscription)
        self._cancel_if_unneeded(subscription.request)

    def expire(self, now: float) -> tuple[Subscription, ...]:
        """Unsubscribe the callers whose deadline has passed; gives their subscriptions."""
        expired = self._in_flight.expire(now)
        for subscription in expired:
            self._cancel_if_unneeded(subscription.request)
        return expired

    def admit(self, now: float) -> tuple[Request, ...]:
        """Give slots to the requests that join at the next step."""
        admitted = self._scheduler.admit(now)
        for request in admitted:
            request.status = RequestStatus.RUNNING
        return admitted

    def give_up(self) -> tuple[Subscription, ...]:
        """Stop waiting for what would not be finished in time; gives whoever waited for it."""
        subscriptions: list[Subscription] = []
        for request in self._scheduler.pop_given_up():
            request.status = RequestStatus.CANCELLED
            subscriptions += self._in_flight.end(request)
        return tuple(subscriptions)

    def vacate(self, request: Request) -> None:
        """Free the slot of a leaving request, which has left the runner."""
        del self._leaving[request]
        self._scheduler.remove(request)

    def stepped(self, now: float, row_steps: int) -> None:
        """See `Scheduler.stepped`."""
        self._scheduler.stepped(now, row_steps)

    def shrink(self, num_requests: int) -> None:
        """Admit fewer from now on: so many were more than the memory holds."""
        self._scheduler.shrink(num_requests)

    def end(
        self, request: Request, status: RequestStatus, now: float, num_steps: int | None = None
    ) -> frozenset[Subscription]:
        """Free the slot of a request that finished or failed; gives whoever waits for it."""
        self._leaving.pop(request, None)
        self._scheduler.finish(request, now, num_steps)
        if request.status is RequestStatus.RUNNING:
            request.status = status
        return self._in_flight.end(request)

    def end_all(self) -> tuple[Subscription, ...]:
        """Stop waiting for anything; gives everybody who did. The ledger is of no use after."""
        return tuple(each for request in self.requests for each in self._in_flight.end(request))

    def _cancel_if_unneeded(self, request: Request) -> None:
        if self._in_flight.is_needed(request):
            return
        if request.status is RequestStatus.WAITING:
            self._scheduler.remove(request)
        elif request.status is RequestStatus.RUNNING:
            self._leaving[request] = None
        else:
            return
        request.status = RequestStatus.CANCELLED
