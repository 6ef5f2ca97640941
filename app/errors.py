"""Errors of the service, and every error as `application/problem+json` (RFC 9457)."""

import json
import logging
import math
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from app.invalid_fields import invalid_fields, refused_field
from app.logs import frames_of
from app.quota import QuotaExceededError
from app.request_context import RequestContext, context_of
from app.schemas import SummarizeRequest, TranslateRequest
from model_core.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    EngineClosedError,
    InvalidParameterError,
    InvalidRequestError,
    QueueFullError,
    RequestFailedError,
    SourceTooLongError,
    TandemError,
    UnknownLanguageError,
)

logger = logging.getLogger(__name__)

_CLIENT_CLOSED_REQUEST = 499  # nginx's number: nobody reads this answer
_CLOSED_RETRY_AFTER_S = 5.0  # a restart loads its checkpoints in about so long
_MAX_DETAIL_CHARS = 1000  # a detail may repeat a client's value, or 200 languages


class TextError(TandemError):
    """One text of a list failed, and with it the call.

    Attributes:
        index: Place of the text in the list.
        cause: What happened to it.
    """

    def __init__(self, index: int, cause: TandemError) -> None:
        super().__init__(f"text {index}: {cause}")
        self.index = index
        self.cause = cause


class ClientDisconnectedError(TandemError):
    """The client hung up before its answer was ready."""


class BodyTooLargeError(HTTPException):
    """A request body beyond the operator's limit."""

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(413, f"the body is larger than {max_body_bytes} bytes")


class BodyTimeoutError(HTTPException):
    """A request body that did not come within the operator's time."""

    def __init__(self, receive_s: float) -> None:
        # What may still come of the body would be taken for a request.
        headers = {"Connection": "close"}
        super().__init__(408, f"the body did not come within {receive_s:g} seconds", headers)


class ProblemResponse(JSONResponse):
    """Problem details as ASCII: a client's lone surrogate must not break its own error.

    Attributes:
        kind: What happened, in a word or two; the last part of the problem's type.
    """

    media_type = "application/problem+json"

    def __init__(
        self, kind: str, content: Mapping[str, object], status: int, headers: Mapping[str, str]
    ) -> None:
        self.kind = kind
        super().__init__(content, status, headers)

    def render(self, content: Any) -> bytes:
        """Encode the members."""
        return json.dumps(content, allow_nan=False).encode("ascii")


def add_error_handlers(app: FastAPI) -> None:
    """Answer errors in one form; what has no handler here ends in `app.calls.Calls`."""
    app.add_exception_handler(TandemError, _on_tandem_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def problem(
    status: int,
    kind: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> ProblemResponse:
    """Problem details of one kind; `members` are those that only this kind has."""
    content = {
        "type": f"urn:tandem:{kind}",
        "title": kind.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail[:_MAX_DETAIL_CHARS],
        **(members or {}),
    }
    return ProblemResponse(kind, content, status, headers or {})


async def _on_tandem_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, TandemError)
    return answer_to(error, context_of(request.scope))


def answer_to(error: TandemError, context: RequestContext) -> ProblemResponse:
    """Problem details of an error, which is noted as the end of the call."""
    if isinstance(error, TextError):
        answer = _tandem_problem(error.cause, str(error), {"index": error.index}, context)
    else:
        answer = _tandem_problem(error, str(error), {}, context)
    context.outcome = answer.kind
    return answer


def _tandem_problem(
    error: TandemError, detail: str, members: dict[str, object], context: RequestContext
) -> ProblemResponse:
    headers = None
    match error:
        case UnknownLanguageError():
            status, kind = 422, "unknown-language"
            members |= {"field": error.field, "known_languages": list(error.known)}
            members |= {"errors": [refused_field(error)]}
        case SourceTooLongError():
            status, kind = 422, "source-too-long"
            members |= {
                "source_tokens": error.source_tokens,
                "max_source_tokens": error.max_source_tokens,
            }
        case InvalidParameterError():
            status, kind = 422, "invalid-parameter"
            members |= {"field": error.field, "expected": error.expected}
            members |= {"errors": [refused_field(error)]}
        case InvalidRequestError():
            status, kind = 422, "invalid-request"
        case QuotaExceededError():
            status, kind = 429, "quota-exceeded"
            headers = _retry_after(error.retry_after_s)
        case DeadlineUnreachableError():
            status, kind = 503, "deadline-unreachable"
            headers = _retry_after(error.retry_after_s)
        case QueueFullError():
            status, kind = 503, "queue-full"
            headers = _retry_after(error.retry_after_s)
        case EngineClosedError():
            status, kind = 503, "unavailable"
            # Whoever comes back on this connection would find the same server.
            headers = _retry_after(_CLOSED_RETRY_AFTER_S) | {"Connection": "close"}
        case DeadlineExceededError():
            status, kind = 504, "deadline-exceeded"
        case RequestFailedError():
            status, kind = 500, "request-failed"
            members |= {"request_id": error.request_id}
        case ClientDisconnectedError():
            status, kind = _CLIENT_CLOSED_REQUEST, "client-disconnected"
        case _:
            return internal_problem(error, context)
    return problem(status, kind, detail, headers=headers, members=members)


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


async def _on_validation_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    body = TranslateRequest if request.url.path.endswith("/translate") else SummarizeRequest
    errors = invalid_fields(error.errors(), body.model_fields)
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in errors[:3])
    context_of(request.scope).outcome = "invalid-request"
    return problem(422, "invalid-request", detail, members={"errors": errors})


async def _on_http_exception(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, BodyTooLargeError):
        kind = "body-too-large"
    elif isinstance(error, BodyTimeoutError):
        kind = "body-timeout"
    else:
        kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    context_of(request.scope).outcome = kind
    return problem(error.status_code, kind, _detail(error), headers=error.headers)


def _detail(error: HTTPException) -> str:
    """The framework's own words, except where it hides why it could not read a body."""
    match error.__cause__:
        case UnicodeDecodeError() as cause:
            return f"the body is not UTF-8: byte {cause.start} does not decode"
        case _:
            return str(error.detail)


def internal_problem(error: Exception, context: RequestContext) -> ProblemResponse:
    """Problem details of a fault of the server, which is logged without the exception's message.

    A library may repeat in its messages what it was given: a text.
    """
    error_id = uuid.uuid4().hex
    context.outcome = "internal-error"
    logger.error(
        "error %s: %s",
        error_id,
        type(error).__name__,
        extra={"fields": {"request_id": context.request_id, "frames": frames_of(error)}},
    )
    detail = "the server failed; the id finds it in the log"
    return problem(500, "internal-error", detail, members={"error_id": error_id})
