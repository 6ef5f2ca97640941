"""A library behind FastAPI with a queue that makes micro-batches.

With batches of one it is what one would write first: one call at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.batches import by_target_len, fits
from benchmarks.libraries import Answer, BatchLibrary, Knobs
from benchmarks.peer_arguments import PeerArguments, body_of, item_of, read_peer_arguments
from benchmarks.workloads import Item

_Waiting = tuple[Item, "asyncio.Future[Answer]"]


class MicroBatcher:
    """Requests wait here until the library takes them, in batches of like target lengths."""

    def __init__(self, library: BatchLibrary, knobs: Knobs) -> None:
        self._library = library
        self._knobs = knobs
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Condition()
        self._pool = ThreadPoolExecutor(knobs.num_workers)

    async def answer(self, item: Item) -> Answer:
        """The answer to one request."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        async with self._arrived:
            self._waiting.append((item, future))
            self._arrived.notify()
        return await future

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Batches are decoded until the end of the block."""
        workers = [asyncio.create_task(self._work()) for _ in range(self._knobs.num_workers)]
        yield
        for worker in workers:
            worker.cancel()
        self._pool.shutdown(cancel_futures=True)

    async def _work(self) -> None:
        while True:
            async with self._arrived:
                await self._arrived.wait_for(lambda: self._waiting)
            if self._knobs.wait_ms and len(self._waiting) < self._knobs.max_batch_size:
                await asyncio.sleep(self._knobs.wait_ms / 1000)
            batch = take_batch(self._waiting, self._knobs)
            if batch:  # another worker may have been faster
                await self._decode(batch)

    async def _decode(self, batch: Sequence[_Waiting]) -> None:
        items = [item for item, _ in batch]
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._pool, self._library.decode_batch, items)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def take_batch(waiting: list[_Waiting], knobs: Knobs) -> list[_Waiting]:
    """Take from the queue who has waited longest, and who fits beside all of them, oldest first."""
    if not waiting:
        return []
    shortest = longest = waiting[0][0]
    batch: list[_Waiting] = []
    left: list[_Waiting] = []
    for each in waiting:
        item, _ = each
        shorter = min(shortest, item, key=by_target_len)
        longer = max(longest, item, key=by_target_len)
        fit = all(fits(other, longer, knobs.length_slack) for other in (item, shorter))
        if fit and len(batch) < knobs.max_batch_size:
            shortest, longest = shorter, longer
            batch.append(each)
        else:
            left.append(each)
    waiting[:] = left
    return batch


def create_app(arguments: PeerArguments) -> FastAPI:
    """An app that answers at the task's endpoint of Tandem."""
    library = arguments.load()
    assert isinstance(library, BatchLibrary)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = MicroBatcher(library, arguments.knobs)
        async with app.state.batcher.running():
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post(f"/{arguments.task}")
    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        return body_of(await app.state.batcher.answer(item_of(body)))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    """Run from the command line."""
    arguments = read_peer_arguments(__doc__)
    uvicorn.run(create_app(arguments), port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
