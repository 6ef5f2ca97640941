"""A client that hangs up gives its work up."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from fastapi import Request

from app.errors import ClientDisconnectedError

_T = TypeVar("_T")


async def unless_disconnected(request: Request, work: Coroutine[None, None, _T]) -> _T:
    """The result of `work`, which is cancelled as soon as the client hangs up.

    Call it once the body has been read: what is received from then on is the hang-up.

    Raises:
        ClientDisconnectedError: Nobody waits for the result any more.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnectedError("the client hung up")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
