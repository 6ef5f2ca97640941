"""What lives as long as the app, and how routes ask for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, TypedDict

from fastapi import Depends, FastAPI, Request

from app.service import TextService


class State(TypedDict):
    """Handed from the lifespan to every request."""

    service: TextService


def lifespan_of(
    open_service: Callable[[], TextService],
) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    """A lifespan that opens the service on a thread and closes it at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        service = await asyncio.to_thread(open_service)
        service.start()
        try:
            yield State(service=service)
        finally:
            await service.close()

    return lifespan


def service_of(request: Request) -> TextService:
    """The service of the app that got this request."""
    service: TextService = request.state.service
    return service


async def get_service(request: Request) -> TextService:
    """The same for a route that asks for it; a function that is not async costs it a thread."""
    return service_of(request)


ServiceDep = Annotated[TextService, Depends(get_service)]
