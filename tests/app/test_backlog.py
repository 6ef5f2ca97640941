import asyncio
from typing import Any

import httpx
import pytest

from tests.app.fakes import SETTINGS, Backwards
from tests.app.waiting import eventually


def post(client: httpx.AsyncClient, text: str | list[str]) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post("/summarize", json={"text": text}))


def texts(num_texts: int) -> list[str]:
    return [f"text {number}" for number in range(num_texts)]


def num_waiting(app: Backwards) -> float:
    return app.value("tandem_waiting_requests", model="short")


@pytest.mark.parametrize(
    "limits",
    [
        {"max_waiting_requests": 1},
        {"max_waiting_requests": 8},
        {"max_waiting_tokens": 1},
        {"max_waiting_tokens": 40, "max_running_requests": 3},
        {"max_waiting_requests": 2, "max_running_requests": 2},
    ],
    ids=str,
)
async def test_an_idle_server_answers_a_list_however_short_its_queue(
    limits: dict[str, Any],
) -> None:
    async with Backwards(SETTINGS, **limits).client() as client:
        response = await post(client, texts(64))

    assert response.status_code == 200, response.text
    assert [each["text"] for each in response.json()["summaries"]] == [
        text[::-1] for text in texts(64)
    ]


async def test_a_list_fills_the_slots_that_are_free() -> None:
    app = Backwards(max_running_requests=32)
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        call = post(client, texts(64))
        await eventually(lambda: num_waiting(app) + len(runner.slots) == 32 + 8)
        runner.gate.set()
        response = await call

    assert response.status_code == 200


async def test_a_list_leaves_room_in_the_queue_and_survives_a_full_one() -> None:
    app = Backwards(max_running_requests=1, max_waiting_requests=4)
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        calls = [post(client, texts(50))]
        await eventually(runner.entered.is_set)
        await eventually(lambda: num_waiting(app) <= 2)
        calls += [post(client, f"other {number}") for number in range(2)]
        await eventually(lambda: num_waiting(app) >= 3)
        too_many = [post(client, f"too many {number}") for number in range(9)]
        await eventually(lambda: any(call.done() for call in too_many))
        runner.gate.set()
        answered = await asyncio.gather(*calls)
        refused = await asyncio.gather(*too_many)

    assert 503 in {response.status_code for response in refused}
    assert [response.status_code for response in answered] == [200, 200, 200]


async def test_a_list_is_refused_as_a_whole_where_its_first_text_finds_no_room() -> None:
    app = Backwards(max_running_requests=1, max_waiting_requests=1)
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        calls = [post(client, "first")]
        await eventually(runner.entered.is_set)
        calls.append(post(client, "second"))
        await eventually(lambda: num_waiting(app) == 1)
        refused = await post(client, texts(5))
        runner.gate.set()
        await asyncio.gather(*calls)

    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tandem:queue-full")
    assert "index" not in refused.json()
    labels = {"model": "short", "task": "summarize", "outcome": "refused"}
    assert app.value("tandem_requests_total", **labels) == 5


async def test_calls_that_wait_for_a_text_thread_are_bounded() -> None:
    app = Backwards(max_waiting_requests=3)
    gate = app.loaded.models["short"].text.gate
    async with app.client() as client:
        gate.clear()
        calls = [post(client, f"call {number}") for number in range(3)]
        await eventually(lambda: app.service.num_in_flight == 3)
        refused = await post(client, "one too many")
        gate.set()
        answered = await asyncio.gather(*calls)

    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tandem:queue-full")
    assert int(refused.headers["retry-after"]) >= 1
    assert [response.status_code for response in answered] == [200] * 3


async def test_lists_that_wait_are_bounded_and_refuse_no_single_text() -> None:
    app = Backwards(max_running_requests=1, max_waiting_requests=4)
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        calls = [post(client, texts(50))]
        await eventually(runner.entered.is_set)
        refused = await post(client, ["another", "list"])
        calls.append(post(client, "a text"))
        await eventually(lambda: app.service.num_in_flight == 2)
        runner.gate.set()
        answered = await asyncio.gather(*calls)

    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tandem:queue-full")
    assert [response.status_code for response in answered] == [200, 200]


async def test_a_call_keeps_its_time_whatever_it_waits_for() -> None:
    app = Backwards()
    gate = app.loaded.models["short"].text.gate
    async with app.client() as client:
        gate.clear()
        body = {"text": ["a", "b"], "timeout_s": 0.05}
        calls = [client.post("/summarize", json=body) for _ in range(8)]
        async with asyncio.timeout(30):
            expired = await asyncio.gather(*calls)
        gate.set()
        response = await post(client, "abc")

    assert [each.json()["type"] for each in expired] == ["urn:tandem:deadline-exceeded"] * 8
    assert response.status_code == 200
    labels = {"model": "short", "task": "summarize", "outcome": "expired"}
    assert app.value("tandem_requests_total", **labels) == 16
