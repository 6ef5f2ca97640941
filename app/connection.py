"""Connections of clients that are slow, or that say nothing: each has its time.

uvicorn closes a connection that idles after an answer, and has no other deadline: a client that
stalls in its headers, in its body or before its answer would keep its connection for ever.
"""

import asyncio
import resource
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, Literal

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from app.http_protocol import HttpProtocol

_FILES_KEPT = 64  # open files that are no connections: weights, the log, the loop's own
_BODY_GRACE_S = 1.0  # the app answers a late body itself, with a problem
_DROP_AT_ONCE = struct.pack("ii", 1, 0)


_Awaited = Literal["head"] | RequestResponseCycle | None


def most_connections() -> int:
    """How many connections this process may hold, as many as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems name a limit that they do not give
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, soft - _FILES_KEPT)


def connections_with(*, receive_s: float, send_s: float, max_connections: int) -> type[H11Protocol]:
    """A protocol for uvicorn.

    Args:
        receive_s: Time for the head of a request to come, and again for its body.
        send_s: Time for a client to read what it was sent.
        max_connections: Most connections; beyond, the one that has been idle for longest is closed
            for each new one.
    """

    class Connection(TimedConnection):
        pass

    Connection.receive_s, Connection.send_s = receive_s, send_s
    Connection.max_connections = max_connections
    return Connection


class TimedConnection(HttpProtocol):
    """uvicorn's connection with a time for everything that a client has to do.

    Attributes:
        receive_s: See `connections_with`.
        send_s: See `connections_with`.
        max_connections: See `connections_with`.
    """

    receive_s: float
    send_s: float
    max_connections: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle_since = self.loop.time()
        self._awaited: _Awaited = None
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the head of a request."""
        if len(self.connections) >= self.max_connections:
            self._close_an_idle_one()
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        _cancel(self._receiving)
        _cancel(self._sending)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Wait for what is still missing."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the client to read; uvicorn waits for its next request."""
        self._idle_since = self.loop.time()
        super().on_response_complete()
        self._watch()
        if self.transport.get_write_buffer_size():
            self._await_reader()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """The client has read most of what it was sent."""
        super().resume_writing()
        _cancel(self._sending)

    @property
    def _is_idle(self) -> bool:
        """Whether there is no request that is being answered."""
        return self._answered is None or self._answered.response_complete

    @property
    def _answered(self) -> RequestResponseCycle | None:
        """The latest request; uvicorn's type leaves out that there may be none yet."""
        return self.cycle

    def _awaits(self) -> _Awaited:
        """What the client has to send; a body is named by the answer to it."""
        answered = self._answered
        if answered is None:
            return "head"
        if answered.more_body:
            return answered
        is_begun = answered.response_complete and self.timeout_keep_alive_task is None
        return "head" if is_begun else None

    def _watch(self) -> None:
        """Give the client its time, from the moment at which something new is awaited of it."""
        awaited = self._awaits()
        if awaited is self._awaited:
            return
        self._awaited = awaited
        _cancel(self._receiving)
        if awaited == "head":
            self._receiving = self.loop.call_later(self.receive_s, self._refuse_head)
        elif awaited is not None:
            seconds = self.receive_s + _BODY_GRACE_S
            self._receiving = self.loop.call_later(seconds, self.transport.abort)

    def _await_reader(self) -> None:
        _cancel(self._sending)
        self._sending = self.loop.call_later(self.send_s, self._cut_off_reader)

    def _refuse_head(self) -> None:
        if not self.transport.is_closing():
            detail = f"the head of the request did not come within {self.receive_s:g} seconds"
            self.refuse(408, "head-timeout", detail)

    def _cut_off_reader(self) -> None:
        """Give up what was not read, also what the system holds of it."""
        if self.transport.get_write_buffer_size():
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_AT_ONCE)
            self.transport.abort()

    def _close_an_idle_one(self) -> None:
        others = (each for each in self.connections if isinstance(each, TimedConnection))
        idle = [each for each in others if each._is_idle]
        if idle:
            min(idle, key=lambda each: each._idle_since).shutdown()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
