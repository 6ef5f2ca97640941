"""Calls that find no room get the answer that the usual way gives, before it is taken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi.routing import APIRoute
from opentelemetry.sdk.trace import TracerProvider

from app.factory import create_app
from tests.app.fakes import SETTINGS, Backwards, client_of
from tests.app.waiting import eventually

LIMITS = {"max_running_requests": 1, "max_waiting_requests": 2, "max_body_bytes": 500}
VALID: list[dict[str, Any]] = [
    {"text": "abc"},
    {"text": ["abc", "def", "ghi"], "priority": "interactive"},
    {"text": "abc", "parameters": {"num_beams": 2, "max_new_tokens": 3}, "timeout_s": 2.5},
    {"text": "abc", "parameters": {"num_beams": 13}},  # no text is read where there is no room
]


@dataclass
class Crowded:
    app: Backwards
    client: httpx.AsyncClient
    calls: list[asyncio.Task[httpx.Response]]

    async def answers(self) -> list[int]:
        """What became of those who made the crowd."""
        self.app.runners["short"].gate.set()
        return [response.status_code for response in await asyncio.gather(*self.calls)]


@asynccontextmanager
async def crowded(*, early: bool = True) -> AsyncIterator[Crowded]:
    """An app whose queue is full; where spans are written, all calls go the usual way."""
    app = Backwards(SETTINGS, **LIMITS)
    if not early:
        app.app = create_app(
            app.service.settings, lambda: app.service, tracer_provider=TracerProvider()
        )
    runner = app.runners["short"]
    async with LifespanManager(app.app) as manager, client_of(manager.app) as client:
        runner.gate.clear()
        calls = [asyncio.create_task(client.post("/summarize", json={"text": "running"}))]
        await eventually(runner.entered.is_set)
        for number in range(1, 3):
            call = client.post("/summarize", json={"text": f"waiting {number}"})
            calls.append(asyncio.create_task(call))
            await eventually(partial(_has_waiting, app, number))
        yield Crowded(app, client, calls)
        runner.gate.set()
        await asyncio.gather(*calls)


def _has_waiting(app: Backwards, number: int) -> bool:
    return app.value("tandem_waiting_requests", model="short") == number


@pytest.fixture
def took_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that the framework was asked for."""
    paths: list[str] = []
    handle = APIRoute.handle

    async def handle_and_note(route: APIRoute, *args: Any) -> None:
        paths.append(route.path)
        await handle(route, *args)

    monkeypatch.setattr(APIRoute, "handle", handle_and_note)
    return paths


@pytest.mark.parametrize("body", VALID, ids=str)
async def test_a_call_without_room_gets_the_usual_answer_line_and_count(
    body: dict[str, Any], caplog: pytest.LogCaptureFixture, took_the_usual_way: list[str]
) -> None:
    seen = []
    for early in (True, False):
        async with crowded(early=early) as there:
            took_the_usual_way.clear()
            caplog.clear()
            caplog.set_level("INFO")
            headers = {"X-Request-ID": "same", "X-Request-Timeout": "20"}
            response = await there.client.post("/summarize", json=body, headers=headers)
            assert took_the_usual_way == ([] if early else ["/summarize"])
            (line,) = [each.fields for each in caplog.records if each.message == "call"]  # type: ignore[attr-defined]
            del line["seconds"]
            refused = {"model": "short", "task": "summarize", "outcome": "refused"}
            calls = {"client": "anonymous", "path": "/summarize", "status": "503"}
            counts = (
                there.app.value("tandem_requests_total", **refused),
                there.app.value("tandem_calls_total", **calls),
            )
            seen.append((response.status_code, response.content, response.headers, line, counts))

    assert seen[0] == seen[1]
    assert seen[0][0] == 503
    assert seen[0][4] == (len(body["text"]) if isinstance(body["text"], list) else 1, 1)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b'{"text": 5}', {}, 422),
        (b'{"text": "abc", "txt": 1}', {}, 422),
        (b'{"text": "abc"', {}, 422),
        (b'{"text": "\xff"}', {}, 400),
        (b"[" * 100, {}, 400),
        (b'{"text": "abc"}', {"Content-Type": "text/plain"}, 422),
        (b'{"text": "abc"}', {"X-Request-Timeout": "soon"}, 422),
        (b'{"text": "abc", "timeout_s": 1e9}', {}, 422),
        (b'{"text": "abc", "target_prefix": "%s"}' % (b"x" * 500), {}, 413),
    ],
)
async def test_what_is_wrong_with_a_call_is_said_before_there_is_no_room(
    content: bytes, headers: dict[str, str], status: int
) -> None:
    answers = []
    for early in (True, False):
        async with crowded(early=early) as there:
            headers = {"Content-Type": "application/json", "X-Request-ID": "same"} | headers
            response = await there.client.post("/summarize", content=content, headers=headers)
            answers.append((response.status_code, response.content, response.headers))

    assert answers[0] == answers[1]
    assert answers[0][0] == status


async def test_a_call_that_finds_room_is_answered_with_all_of_its_body() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b'{"text": ', b'"abc', b'"}'):
            yield part

    app = Backwards(SETTINGS, max_running_requests=1)
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        calls = [
            asyncio.create_task(client.post("/summarize", json={"text": f"call {number}"}))
            for number in range(2)
        ]
        await eventually(lambda: app.value("tandem_waiting_requests", model="short") == 1)
        headers = {"Content-Type": "application/json"}
        whole = client.post("/summarize", content=parts(), headers=headers)
        calls.append(asyncio.create_task(whole))
        await eventually(lambda: app.value("tandem_waiting_requests", model="short") == 2)
        runner.gate.set()
        answers = [response.json() for response in await asyncio.gather(*calls)]

    assert [each["summaries"][0]["text"] for each in answers] == ["0 llac", "1 llac", "cba"]


async def test_those_who_wait_are_answered_after_others_were_refused() -> None:
    async with crowded() as there:
        assert (await there.client.post("/summarize", json={"text": "abc"})).status_code == 503
        assert (await there.client.get("/summarize")).status_code == 405
        assert (await there.client.get("/info")).status_code == 200
        assert await there.answers() == [200, 200, 200]
