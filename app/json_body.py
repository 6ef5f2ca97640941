"""Routes whose JSON bodies are bounded before they are validated.

Parsing and validating hold up everybody, and validating costs some 20 microseconds for each error
that it finds: a body of 4 MB must not have a million of them.
"""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from app.lifespan import service_of
from app.settings import Settings
from app.text_bounds import check_num_texts
from model_core.errors import InvalidRequestError

# No alternative inside the loop, and an end that always matches: linear in the body.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_STEPS = np.zeros(256, np.int8)  # of the depth, by byte
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1
_MAX_FIELDS = 2000  # of one object: far more than any has; and texts, unless more are allowed
_MAX_BRACKETS = 20_000  # a thousand bad words and as many biases have less than half of it
_NO_BRACKETS = bytes(byte for byte in range(256) if not _STEPS[byte])


class BoundedJson(Request):
    """A request whose JSON is refused where it is nested too deeply for any parser to differ."""

    async def json(self) -> Any:
        """The parsed body; see `bounded_json`."""
        return bounded_json(await self.body(), service_of(self).settings)


class BoundedJsonRoute(APIRoute):
    """A route that reads its body as `BoundedJson`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's documented way to a request class of one's own."""
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            try:
                return await handle(BoundedJson(request.scope, request.receive))
            except HTTPException as error:
                # FastAPI hides what `json` raises behind a 400.
                if isinstance(error.__cause__, InvalidRequestError):
                    raise error.__cause__ from None
                raise

        return handle_bounded


def bounded_json(body: bytes, settings: Settings) -> Any:
    """The parsed body.

    Raises:
        HTTPException: It is nested more deeply than the operator allows, holds more arrays
            than anybody could mean, or a number that Python does not read.
        InvalidRequestError: It has more fields or texts than anybody could mean.
        ValueError: It is no JSON.
    """
    _check_shape(body, settings.max_json_depth)
    value = _parsed(body)
    if isinstance(value, dict):
        _check_fields("the body", value)
        _check_fields("parameters", value.get("parameters"))
        texts = value.get("text")
        if isinstance(texts, list) and len(texts) > _MAX_FIELDS:
            check_num_texts(len(texts), settings)  # fewer: the service refuses and counts them
    return value


def json_shape(body: bytes) -> tuple[int, int]:
    """How many brackets outside of strings are open at most, and how many there are.

    In time linear in the body, whether it is JSON or not.
    """
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    depths = np.cumsum(_STEPS[np.frombuffer(brackets, np.uint8)], dtype=np.int32)
    return int(depths.max(initial=0)), len(brackets)


def _check_shape(body: bytes, max_depth: int) -> None:
    if body.count(b"[") + body.count(b"{") <= min(max_depth, _MAX_BRACKETS // 2):
        return  # whatever stands in strings; what closes more than was opened is no JSON
    depth, num_brackets = json_shape(body)
    if depth > max_depth:
        raise HTTPException(400, f"the body is nested more than {max_depth} deep")
    if num_brackets > _MAX_BRACKETS:
        raise HTTPException(400, f"the body has more than {_MAX_BRACKETS} brackets")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:  # an integer of more than 4,300 digits
        raise HTTPException(400, "the body has a number with too many digits") from error


def _check_fields(name: str, value: Any) -> None:
    if isinstance(value, dict) and len(value) > _MAX_FIELDS:
        raise InvalidRequestError(f"{name} has {len(value)} fields: expected at most {_MAX_FIELDS}")
