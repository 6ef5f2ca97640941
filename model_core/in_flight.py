"""Requests in flight and the callers who wait for them: coalescing and deadlines."""

import math
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from model_core.errors import TandemError
from model_core.generation import GenerationParameters
from model_core.request import Output, Request

_Key = tuple[tuple[int, ...], GenerationParameters]


@dataclass(slots=True, eq=False)
class Subscription:
    """One caller's wait for a request, which it may share with others.

    Attributes:
        request: The work that answers it.
        deadline: Of this caller alone; infinity where there is none.
        future: Never set running, so that the caller can cancel it at any time.
    """

    request: Request
    deadline: float
    future: Future[Output] = field(default_factory=Future)

    def answer(self, output: Output) -> None:
        """Give the caller its result; its callbacks run on this thread."""
        with suppress(InvalidStateError):  # cancelled just now
            self.future.set_result(output)

    def fail(self, error: TandemError) -> None:
        """Tell the caller why there is no result; its callbacks run on this thread."""
        with suppress(InvalidStateError):  # cancelled just now
            self.future.set_exception(error)


class InFlight:
    """Every request of one checkpoint that has not ended, with its subscriptions.

    Not thread-safe: the engine calls it under its lock.
    """

    def __init__(self) -> None:
        self._subscriptions: dict[Request, set[Subscription]] = {}
        self._shared: dict[_Key, Request] = {}
        self._no_deadline_before = math.inf  # spares a walk over all subscriptions in most steps

    @property
    def requests(self) -> tuple[Request, ...]:
        """Requests that somebody waits for."""
        return tuple(self._subscriptions)

    def is_needed(self, request: Request) -> bool:
        """Whether somebody still waits for the request."""
        return request in self._subscriptions

    def find_identical(self, request: Request) -> Request | None:
        """A request in flight whose result is also this one's."""
        return self._shared.get(_key(request))

    def has(self, source_ids: tuple[int, ...], parameters: GenerationParameters) -> bool:
        """Whether such a request is in flight."""
        return (source_ids, parameters) in self._shared

    def add(self, request: Request) -> None:
        """Track a new request; it needs a subscription at once."""
        self._subscriptions[request] = set()
        self._shared[_key(request)] = request

    def subscribe(self, request: Request, deadline: float) -> Subscription:
        """Let one more caller wait for a tracked request."""
        subscription = Subscription(request, deadline)
        self._subscriptions[request].add(subscription)
        request.deadline = max(request.deadline, deadline)
        self._no_deadline_before = min(self._no_deadline_before, deadline)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End one caller's wait, and the request with its last one."""
        request = subscription.request
        remaining = self._subscriptions.get(request)
        if remaining is None:
            return
        remaining.discard(subscription)
        if remaining:
            request.deadline = max(other.deadline for other in remaining)
        else:
            self.end(request)

    def end(self, request: Request) -> frozenset[Subscription]:
        """Stop tracking a request; gives whoever still waited for it."""
        if self._shared.get(_key(request)) is request:
            del self._shared[_key(request)]
        return frozenset(self._subscriptions.pop(request, ()))

    def expire(self, now: float) -> tuple[Subscription, ...]:
        """Unsubscribe the callers whose deadline has passed; gives their subscriptions."""
        if now < self._no_deadline_before:
            return ()
        expired = tuple(each for each in self._all() if each.deadline <= now)
        for subscription in expired:
            self.unsubscribe(subscription)
        self._no_deadline_before = min((each.deadline for each in self._all()), default=math.inf)
        return expired

    def _all(self) -> Iterable[Subscription]:
        return (each for waiting in self._subscriptions.values() for each in waiting)


def _key(request: Request) -> _Key:
    return request.source_ids, request.parameters
