"""What a call must pass before its body is read: the bounds of its headers, and its key."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api_keys import ApiKeys
from app.errors import ProblemResponse, problem
from app.request_context import UNKNOWN, context_of

OPEN_PATHS = ("/health", "/ready")
"""For orchestrators, which have no key; they say nothing but how the server is."""

_OVERHEAD = len(b"  HTTP/1.1\r\n\r\n")  # of a request's line and its end
_OVERHEAD_OF_HEADER = len(b": \r\n")


class HeaderGate:
    """ASGI middleware: answers a call whose headers are too large, or name two lengths.

    The server's own limit stops headers that do not end; those that came in one piece pass it.
    """

    def __init__(self, app: ASGIApp, max_header_bytes: int) -> None:
        self._app = app
        self._max_header_bytes = max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app, unless something is wrong before the body."""
        answer = self._refusal(scope) if scope["type"] == "http" else None
        if answer is None:
            await self._app(scope, receive, send)
        else:
            context_of(scope).outcome = answer.kind
            await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> ProblemResponse | None:
        if _header_bytes(scope) > self._max_header_bytes:
            detail = f"the headers are larger than {self._max_header_bytes} bytes"
            return problem(431, "request-header-fields-too-large", detail)
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy that goes by the other one takes the rest for a second request (RFC 9112,
            # 6.1), so that nothing more is read from this connection.
            detail = "expected Content-Length or Transfer-Encoding, not both"
            return problem(400, "bad-request", detail, headers={"Connection": "close"})
        return None


def _header_bytes(scope: Scope) -> int:
    line = len(scope["method"]) + len(scope.get("raw_path") or b"") + len(scope["query_string"])
    headers = sum(len(name) + len(value) + _OVERHEAD_OF_HEADER for name, value in scope["headers"])
    return line + headers + _OVERHEAD


class KeyGate:
    """ASGI middleware: tells who calls, and answers with 401 where a key is needed and missing."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app for a caller whose name is known."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = self._keys.name_of(Headers(scope=scope))
        context = context_of(scope)
        context.client_name = name or UNKNOWN
        if name is not None and self._keys.are_required:
            scope["state"]["client_name"] = name
        if name is None and scope["path"] not in OPEN_PATHS:
            context.outcome = "unauthorized"
            await _unauthorized(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _unauthorized(scope: Scope, receive: Receive, send: Send) -> None:
    detail = "expected a valid API key, as Authorization: Bearer KEY or X-API-Key: KEY"
    response = problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
    await response(scope, receive, send)
