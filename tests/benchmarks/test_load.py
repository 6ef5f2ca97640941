"""The load generator sends what it was told to, and counts what came back."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from benchmarks.load import Load, _sender, run

URL = "http://app/translate"


class Counting:
    """An app that knows how many calls it had at a time; it refuses texts that say so."""

    def __init__(self) -> None:
        self.num_calls = self.num_now = self.num_most = 0
        self.app = FastAPI()
        self.app.post("/translate")(self.answer)

    async def answer(self, body: dict[str, Any]) -> Any:
        self.num_calls += 1
        self.num_now += 1
        self.num_most = max(self.num_most, self.num_now)
        for _ in range(20):  # everybody who may send gets the chance to
            await asyncio.sleep(0)
        self.num_now -= 1
        if body["text"] == "refuse":
            return JSONResponse({"title": "no"}, status_code=503)
        return {"usage": {"generated_tokens": 3}}


def bodies(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "parameters": {}} for text in texts]


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_closed_loop_has_so_many_calls_at_a_time(concurrency: int) -> None:
    counting = Counting()
    load = Load(url=URL, bodies=bodies(*"abcdefghij"), concurrency=concurrency)
    result = await run(load, httpx.ASGITransport(counting.app))
    assert counting.num_calls == 10
    assert counting.num_most == concurrency
    assert len(result["latencies_s"]) == 10
    assert result["tokens"] == 30
    assert result["num_failed"] == 0


async def test_an_open_loop_sends_whatever_has_become_of_the_others() -> None:
    counting = Counting()
    load = Load(url=URL, bodies=bodies(*"abcde"), arrivals_s=[0.0] * 5)
    result = await run(load, httpx.ASGITransport(counting.app))
    assert counting.num_most == 5
    assert len(result["latencies_s"]) == 5


async def test_refused_calls_count_as_failed() -> None:
    load = Load(url=URL, bodies=bodies("a", "refuse", "b"), concurrency=1)
    result = await run(load, httpx.ASGITransport(Counting().app))
    assert result["num_failed"] == 1
    assert result["tokens"] == 6
    assert len(result["latencies_s"]) == 2


@pytest.mark.parametrize(
    ("lateness_s", "cpu_share", "was_bottleneck"),
    [([0.001, 0.002], 0.2, False), ([0.001, 0.2], 0.2, True), ([0.0], 0.95, True)],
)
def test_the_sender_says_when_it_was_the_bottleneck(
    lateness_s: list[float], cpu_share: float, was_bottleneck: bool
) -> None:
    assert _sender(lateness_s, [1.0, 1.0], cpu_share)["was_bottleneck"] is was_bottleneck
