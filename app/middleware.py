"""What holds for every request: bounds of its body, and a goodbye where the server leaves."""

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BodyTimeoutError, BodyTooLargeError


class BodyLimit:
    """ASGI middleware: reading a body fails as soon as it is known to be too large, or too late.

    Args:
        app: What is bounded.
        max_body_bytes: Whether they are declared or not; beyond: 413.
        receive_s: Time for the whole body; then: 408.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, receive_s: float) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._receive_s = receive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with a bounded `receive`."""
        if scope["type"] == "http":
            receive = self._bounded(scope, receive)
        await self._app(scope, receive, send)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        declared = Headers(scope=scope).get("content-length", "")
        declared_bytes = int(declared) if declared.isdecimal() else 0
        received_bytes = 0
        is_whole = False
        deadline = asyncio.get_running_loop().time() + self._receive_s

        async def in_time() -> Message:
            try:
                async with asyncio.timeout_at(None if is_whole else deadline):
                    return await receive()
            except TimeoutError as error:
                raise BodyTimeoutError(self._receive_s) from error

        async def bounded() -> Message:
            nonlocal received_bytes, is_whole
            message = await in_time()
            is_whole = not message.get("more_body", False)
            received_bytes += len(message.get("body", b""))
            if max(declared_bytes, received_bytes) > self._max_body_bytes:
                raise BodyTooLargeError(self._max_body_bytes)
            return message

        return bounded


class Goodbye:
    """ASGI middleware: answers of a server that is leaving close their connections.

    So nobody sends a further request on a connection that is about to go.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app with a `send` that says goodbye."""

        async def send_goodbye(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["state"]["service"].is_leaving:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_goodbye if scope["type"] == "http" else send)
