"""Errors of the service, and every error as `application/problem+json` (RFC 9457)."""

import json
import logging
import math
import reprlib
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from app.schemas import UNION_TAGS
from model_core.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InvalidParameterError,
    InvalidRequestError,
    QueueFullError,
    RequestFailedError,
    SourceTooLongError,
    TandemError,
    UnknownLanguageError,
)
from model_core.generation import NOT_SERVED

logger = logging.getLogger(__name__)

_CLIENT_CLOSED_REQUEST = 499  # nginx's number: nobody reads this answer
_CLOSED_RETRY_AFTER_S = 5.0  # a restart loads its checkpoints in about so long
_MAX_NAME_CHARS = 80  # of a client's own field name, repeated in an error
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


class ProblemResponse(JSONResponse):
    """Problem details as ASCII: a client's lone surrogate must not break its own error."""

    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        """Encode the members."""
        return json.dumps(content, allow_nan=False).encode("ascii")


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the app in one form."""
    app.add_exception_handler(TandemError, _on_tandem_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_exception)


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
    return ProblemResponse(content, status, headers)


async def _on_tandem_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, TandemError)
    return tandem_problem(error)


def tandem_problem(error: TandemError) -> ProblemResponse:
    """Problem details of an error of the engine or of the service."""
    if isinstance(error, TextError):
        return _tandem_problem(error.cause, str(error), {"index": error.index})
    return _tandem_problem(error, str(error), {})


def _tandem_problem(error: TandemError, detail: str, members: dict[str, object]) -> ProblemResponse:
    headers = None
    match error:
        case UnknownLanguageError():
            status, kind = 422, "unknown-language"
            members |= {"field": error.field, "known_languages": list(error.known)}
        case SourceTooLongError():
            status, kind = 422, "source-too-long"
            members |= {
                "source_tokens": error.source_tokens,
                "max_source_tokens": error.max_source_tokens,
            }
        case InvalidParameterError():
            status, kind = 422, "invalid-parameter"
            members |= {"field": error.field, "expected": error.expected}
        case InvalidRequestError():
            status, kind = 422, "invalid-request"
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
            return _internal_problem(error)
    return problem(status, kind, detail, headers=headers, members=members)


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


async def _on_validation_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    errors = [_invalid_field(each) for each in error.errors()]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in errors[:3])
    return problem(422, "invalid-request", detail, members={"errors": errors})


def _invalid_field(error: Mapping[str, Any]) -> dict[str, str]:
    if error["type"] == "json_invalid":
        reason = f"not JSON at character {error['loc'][-1]}: {error['ctx']['error']}"
        return {"field": "body", "message": reason}
    if error["type"] == "model_attributes_type":
        expected = "expected a JSON object, sent with Content-Type: application/json"
        return {"field": _field(error["loc"]), "message": expected}
    return {"field": _field(error["loc"]), "message": _message(error)}


def _message(error: Mapping[str, Any]) -> str:
    """What was expected, and what was given where that cannot be a client's text."""
    name = error["loc"][-1]
    if error["type"] == "extra_forbidden" and error["loc"][1:2] == ("parameters",):
        return f"not served: {NOT_SERVED[name]}" if name in NOT_SERVED else "no such parameter"
    is_parameter = error["loc"][1:2] == ("parameters",)
    given = f"is {reprlib.repr(error['input'])}: " if is_parameter else ""
    return f"{given}{error['msg']}"


def _field(loc: Sequence[int | str]) -> str:
    """Path of a field, without the leading "body" and the kinds that a value could have had."""
    of_parameter = loc[:2] == ("body", "parameters")
    parts = (
        [*loc[:3], *(part for part in loc[3:] if isinstance(part, int))] if of_parameter else loc
    )
    names = [str(part)[:_MAX_NAME_CHARS] for part in parts if part not in UNION_TAGS]
    return ".".join(names[1:] if len(names) > 1 else names)


async def _on_http_exception(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, BodyTooLargeError):
        kind = "body-too-large"
    else:
        kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return problem(error.status_code, kind, error.detail, headers=error.headers)


async def _on_exception(request: Request, error: Exception) -> ProblemResponse:
    return _internal_problem(error)


def _internal_problem(error: Exception) -> ProblemResponse:
    error_id = uuid.uuid4().hex
    logger.error("error %s: %s", error_id, type(error).__name__, exc_info=error)
    detail = "the server failed; the id finds it in the log"
    return problem(500, "internal-error", detail, members={"error_id": error_id})
