"""What every call gets, whatever answers it: an id, headers, an end in log, metrics and traces."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import internal_problem
from app.request_context import RequestContext, set_context
from model_core.request import Timing

logger = logging.getLogger(__name__)

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
_PROBES = ("/health", "/ready", "/metrics")  # asked every few seconds: logged if they fail
_OWN_PAGES = ("/docs", "/docs/oauth2-redirect", "/redoc")  # the only answers that are web pages
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer; the pages at `/docs` alone load scripts."""


@dataclass(slots=True)
class CallEnd:
    """How a call ended.

    Attributes:
        context: Of the call.
        method: Of HTTP; `other` for one that nobody knows.
        path: Of the route, never the client's own: it could be anything. `none` for no route.
        status: Of the answer; 500 where there was none.
        seconds: From its headers to the end of its answer.
    """

    context: RequestContext
    method: str
    path: str
    status: int
    seconds: float


TraceCall = Callable[[RequestContext, str], None]


class Calls:
    """ASGI middleware, outside of all others that answer: nothing leaves the app but through it.

    An exception that nobody handled ends here with 500, so that no server above logs its message.
    """

    def __init__(self, app: ASGIApp, trace_call: TraceCall) -> None:
        """Wrap the app.

        Args:
            app: Answers.
            trace_call: Is told the context and the route's path when an answer begins: the
                framework ends its span with the answer.
        """
        self._app = app
        self._trace_call = trace_call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app inside the call's context."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext.of_headers(Headers(scope=scope))
        set_context(scope, context)
        status: int | None = None

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._trace_call(context, _path_of(scope))
                _add_headers(MutableHeaders(scope=message), context, _path_of(scope))
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except Exception as error:  # noqa: BLE001  # the end of every call
            answer = internal_problem(error, context)
            if status is None:
                await answer(scope, receive, with_headers)
        finally:
            self._end(scope, context, status or 500)

    def _end(self, scope: Scope, context: RequestContext, status: int) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        seconds = time.monotonic() - context.started
        end = CallEnd(context, method, _path_of(scope), status, seconds)
        log_call(end)
        service = scope["state"].get("service")
        if service is not None:
            service.metrics.call_ended(context.client_name, end.path, status)


def log_call(end: CallEnd) -> None:
    """Write the line of a call: who, what, how much, how long, how it ended."""
    context = end.context
    level = logging.DEBUG if end.path in _PROBES and end.status < 400 else logging.INFO
    fields: dict[str, Any] = {
        "request_id": context.request_id,
        "trace_id": context.trace_id,
        "client": context.client_name,
        "method": end.method,
        "path": end.path,
        "status": end.status,
        "outcome": context.outcome,
        "seconds": round(end.seconds, 6),
    }
    if context.task is not None:
        fields |= {
            "task": context.task,
            "num_texts": context.num_texts,
            "source_tokens": context.source_tokens,
            "generated_tokens": context.generated_tokens,
            **_longest(context.timings),
        }
    logger.log(level, "call", extra={"fields": fields})


def _longest(timings: list[Timing]) -> dict[str, float]:
    """The longest phase of each kind, of all texts of a call."""
    names = ("queue_s", "encode_s", "decode_s")
    return {
        name: round(max(getattr(each, name) for each in timings), 6) for name in names if timings
    }


def _path_of(scope: Scope) -> str:
    route = scope.get("route")
    if route is not None:
        return str(route.path)
    return scope["path"] if scope["path"] in _OWN_PAGES else "none"


def _add_headers(headers: MutableHeaders, context: RequestContext, path: str) -> None:
    headers["X-Request-ID"] = context.request_id
    headers.update(SECURITY_HEADERS)
    if path in _OWN_PAGES:
        del headers["Content-Security-Policy"]
