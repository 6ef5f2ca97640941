"""Calls that find no room are answered before the framework has looked at them.

Under overload most calls are refused. The way through the framework takes several times as long as
to see that there is no room, and while it takes that way the engine hardly moves on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request
from pydantic import TypeAdapter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.caller import Caller, TimeoutHeader, client_of
from app.errors import answer_to
from app.json_body import bounded_json
from app.lifespan import service_of
from app.request_context import context_of
from app.schemas import TextRequest
from app.service import TextService
from model_core.errors import InvalidRequestError, QueueFullError
from model_core.generation import Task

_MAX_BYTES = 2**16
"""A longer body is not worth reading twice, should there be room for it."""
_TIMEOUT: TypeAdapter[float | None] = TypeAdapter(TimeoutHeader)


@dataclass(frozen=True, slots=True)
class TextRoute:
    """A route whose calls may find no room.

    Attributes:
        task: What its calls ask for.
        body: What they send.
        route: As the framework knows it.
    """

    task: Task
    body: type[TextRequest]
    route: BaseRoute

    @property
    def path(self) -> str:
        """Of the calls."""
        return f"/{self.task}"


class EarlyRefusal:
    """ASGI middleware: refuses what the service would refuse for want of room, with its answer.

    A call with whatever else is wrong goes on, with all that was read of it, and so does one that
    may have room.
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, TextRoute]) -> None:
        """Wrap the app.

        Args:
            app: Answers what is not refused here.
            routes: By path.
        """
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app for a call that may have room."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        route = self._routes.get(scope["path"]) if is_post else None
        if route is None or not (service := service_of(Request(scope))).has_waiting:
            await self._app(scope, receive, send)
            return
        received = _Received(receive)
        refusal = _refusal(route, service, scope, await received.body())
        if refusal is None:
            await self._app(scope, received.again, send)
        else:
            scope["route"] = route.route  # names the call in log and metrics
            await answer_to(refusal, context_of(scope))(scope, receive, send)


class _Received:
    """A body that was read, for whoever reads it again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._end: Message | HTTPException | None = None

    async def body(self) -> bytes | None:
        """All of it; None where it does not come, or is too large."""
        body = bytearray()
        while True:
            try:
                message = await self._receive()
            except HTTPException as error:
                self._end = error
                return None
            if message["type"] != "http.request":
                self._end = message
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                whole = bytes(body)
                self._end = {"type": "http.request", "body": whole, "more_body": False}
                return whole

    async def again(self) -> Message:
        """What came of it, all at once, then what comes."""
        if isinstance(self._end, HTTPException):
            raise self._end
        end, self._end = self._end, None
        return await self._receive() if end is None else end


def _refusal(
    route: TextRoute, service: TextService, scope: Scope, body: bytes | None
) -> QueueFullError | None:
    """Why there is no room for a call; None where there may be, or where it is wrong."""
    headers = Headers(scope=scope)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if body is None or len(body) > _MAX_BYTES or kind != "application/json":
        return None
    try:
        request = route.body.model_validate(bounded_json(body, service.settings))
        timeout_s = _TIMEOUT.validate_python(headers.get("x-request-timeout"))
    except (ValueError, HTTPException, InvalidRequestError):
        return None
    caller = Caller(client_of(Request(scope)), timeout_s)
    return service.refuse_without_room(route.task, request, caller, context_of(scope))
