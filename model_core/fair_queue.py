"""Requests that wait: in turns of their classes, then of their clients, then as they came."""

from collections import OrderedDict
from dataclasses import dataclass, field

from model_core.request import Priority, Request
from model_core.turns import Turns

SHARES: dict[Priority, float] = {"interactive": 8.0, "bulk": 1.0}
"""Work of each class where both wait: interactive goes first, and bulk is never starved."""


@dataclass(slots=True)
class _Line:
    """The requests of one client and class, in their order, each with its work."""

    requests: OrderedDict[Request, float] = field(default_factory=OrderedDict)
    work: float = 0.0
    source_tokens: int = 0

    @property
    def num_requests(self) -> int:
        return len(self.requests)


@dataclass(slots=True)
class _Class:
    """The requests of one priority class, by client."""

    clients: Turns[str] = field(default_factory=Turns[str])
    lines: dict[str, _Line] = field(default_factory=dict)
    work: float = 0.0
    num_requests: int = 0


class FairQueue:
    """Who waits, with the work that each is expected to be; numbers only.

    A client that sends a thousand requests so delays others by no more than its share.
    """

    def __init__(self) -> None:
        self._turns = Turns[Priority](SHARES)
        self._classes: dict[Priority, _Class] = {priority: _Class() for priority in SHARES}

    def __len__(self) -> int:
        return sum(each.num_requests for each in self._classes.values())

    @property
    def work(self) -> float:
        """All that is expected to be done for those who wait."""
        return sum(each.work for each in self._classes.values())

    @property
    def next(self) -> Request:
        """Who is next; somebody has to wait."""
        its_class = self._classes[self._turns.next]
        return next(iter(its_class.lines[its_class.clients.next].requests))

    def add(self, request: Request, work: float) -> None:
        """Put a request at the end of its client's line."""
        its_class = self._classes[request.priority]
        self._turns.join(request.priority)
        its_class.clients.join(request.client)
        line = its_class.lines.setdefault(request.client, _Line())
        line.requests[request] = work
        line.work += work
        line.source_tokens += request.source_len
        its_class.work += work
        its_class.num_requests += 1

    def take(self, request: Request) -> None:
        """Take out the request that is next, as its client's turn."""
        its_class = self._classes[request.priority]
        work = its_class.lines[request.client].requests[request]
        self._turns.charge(request.priority, work)
        its_class.clients.charge(request.client, work)
        self.remove(request)

    def remove(self, request: Request) -> None:
        """Take out a request that gives up its place."""
        its_class = self._classes[request.priority]
        line = its_class.lines[request.client]
        work = line.requests.pop(request)
        line.work -= work
        line.source_tokens -= request.source_len
        its_class.work -= work
        its_class.num_requests -= 1
        if not line.requests:
            del its_class.lines[request.client]
            its_class.clients.leave(request.client)
        if not its_class.lines:
            its_class.work = 0.0  # what rounding has left
            self._turns.leave(request.priority)

    def promote(self, request: Request) -> None:
        """Move a request of the bulk class to the interactive one."""
        work = self._classes[request.priority].lines[request.client].requests[request]
        self.remove(request)
        request.priority = "interactive"
        self.add(request, work)

    def has_share(self, client: str, most: int, most_tokens: int) -> bool:
        """Whether a client has its share of so many requests, or of so many source tokens.

        Everybody who waits has an equal share, and so has one who may still come.
        """
        lines = [each.lines for each in self._classes.values()]
        own = [each[client] for each in lines if client in each]
        num_shares = 1 + len({client}.union(*lines))
        num_requests = sum(line.num_requests for line in own)
        tokens = sum(line.source_tokens for line in own)
        return num_shares * num_requests >= most or num_shares * tokens >= most_tokens

    def work_before(self, client: str, priority: Priority) -> float:
        """What is expected to be done before a further request of a client has its turn.

        That is what its client has in the queue, and whatever of others is due before it.
        """
        its_class = self._classes[priority]
        line = its_class.lines.get(client)
        in_class = 0.0 if line is None else line.work
        ahead = its_class.clients.ahead_of(client, in_class)
        in_class += sum(_begun(its_class.lines[other], work) for other, work in ahead)
        others = self._turns.ahead_of(priority, in_class)
        return in_class + sum(_begun(self._classes[other], work) for other, work in others)


def _begun(waiting: _Line | _Class, work: float) -> float:
    """What is done of requests in a line while so much may be begun: one is whole or not at all."""
    return min(waiting.work, work + waiting.work / waiting.num_requests)
