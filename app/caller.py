"""Who calls, and what the headers of a call say of it."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

_NOT_NAMED = ""
_SECRET = secrets.token_bytes(16)  # of this process: what an address becomes tells nothing of it
_NAME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of one call.

    Attributes:
        client: Whom fairness and quotas are counted for; empty where it is the operator.
        timeout_s: What the header asks for, if there is one.
    """

    client: str = _NOT_NAMED
    timeout_s: float | None = None


TimeoutHeader = Annotated[
    float | None,
    Header(
        alias="X-Request-Timeout",
        gt=0,
        allow_inf_nan=False,
        description="Time for the whole call in seconds, as `timeout_s`; the smaller one holds.",
    ),
]


def client_of(request: Request) -> str:
    """The name that stands for the sender of a request.

    It is the name of its key, where whoever checked the key has left it in
    `request.state.client_name`; else one that is made of its address and that does not tell it.
    """
    name = getattr(request.state, "client_name", None)
    if name is not None:
        return f"key {name}"
    host = request.client.host if request.client else ""
    digest = hashlib.blake2b(host.encode(), key=_SECRET, digest_size=_NAME_BYTES)
    return f"client {digest.hexdigest()}"


async def get_caller(request: Request, timeout_s: TimeoutHeader = None) -> Caller:
    """The caller of a request, for a route."""
    return Caller(client_of(request), timeout_s)


CallerDep = Annotated[Caller, Depends(get_caller)]
