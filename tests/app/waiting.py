"""Waiting for what another thread brings about."""

import asyncio
from collections.abc import Callable

_PAUSE_S = 0.001
"""A loop that only yields would keep the interpreter from the very thread that it waits for."""


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, under a timeout that only fails the test."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # the engine's thread sets no asyncio event
            await asyncio.sleep(_PAUSE_S)
