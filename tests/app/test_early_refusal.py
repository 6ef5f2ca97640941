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
from pydantic import SecretStr
from starlette.types import Message

from app.factory import create_app
from tests.app.fakes import SETTINGS, Backwards, client_of
from tests.app.waiting import eventually

KEY = {"X-API-Key": "a-key-that-is-long-enough-to-be-one"}
LIMITS: dict[str, Any] = {
    "max_running_requests": 1,
    "max_waiting_requests": 2,
    "max_body_bytes": 500,
}
VALID: list[dict[str, Any]] = [
    {"text": "abc"},
    {"text": ["abc", "def", "ghi"], "priority": "interactive"},
    {"text": "abc", "parameters": {"num_beams": 2, "max_new_tokens": 3}, "timeout_s": 2.5},
    {"text": "abc", "parameters": {"num_beams": 13}},  # no text is read where there is no room
]
ROUTES = {"/summarize": {}, "/translate": {"source_lang": "en", "target_lang": "de"}}
MODELS = {"/summarize": "short", "/translate": "en-de"}


@dataclass
class Crowded:
    app: Backwards
    client: httpx.AsyncClient
    calls: list[asyncio.Task[httpx.Response]]

    async def answers(self) -> list[int]:
        """What became of those who made the crowd."""
        for runner in self.app.runners.values():
            runner.gate.set()
        return [response.status_code for response in await asyncio.gather(*self.calls)]


@asynccontextmanager
async def crowded(
    path: str = "/summarize", *, early: bool = True, **settings: Any
) -> AsyncIterator[Crowded]:
    """An app whose queue is full; where spans are written, all calls go the usual way."""
    app = Backwards(SETTINGS, **LIMITS | settings)
    if not early:
        app.app = create_app(
            app.service.settings, lambda: app.service, tracer_provider=TracerProvider()
        )
    runner, model = app.runners[MODELS[path]], MODELS[path]
    async with LifespanManager(app.app) as manager, client_of(manager.app) as client:
        client.headers.update(KEY if "api_keys" in settings else {})
        runner.gate.clear()
        calls: list[asyncio.Task[httpx.Response]] = []
        for number in range(3):
            call = client.post(path, json={"text": f"call {number}"} | ROUTES[path])
            calls.append(asyncio.create_task(call))
            await eventually(partial(_has_waiting, app, model, number))
            await eventually(runner.entered.is_set)
        client.headers.pop("X-API-Key", None)
        yield Crowded(app, client, calls)
        runner.gate.set()
        await asyncio.gather(*calls)


def _has_waiting(app: Backwards, model: str, number: int) -> bool:
    return app.value("tandem_waiting_requests", model=model) == number


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


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("sent", [{}, {"X-Request-Timeout": "20"}], ids=str)
@pytest.mark.parametrize("body", VALID, ids=str)
async def test_a_call_without_room_gets_the_usual_answer_line_and_count(
    path: str,
    sent: dict[str, str],
    body: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    took_the_usual_way: list[str],
) -> None:
    seen = []
    task, model = path.removeprefix("/"), MODELS[path]
    for early in (True, False):
        async with crowded(path, early=early) as there:
            took_the_usual_way.clear()
            caplog.clear()
            caplog.set_level("INFO")
            headers = {"X-Request-ID": "same"} | sent
            response = await there.client.post(path, json=body | ROUTES[path], headers=headers)
            assert took_the_usual_way == ([] if early else [path])
            assert int(response.headers.pop("Retry-After")) >= 1  # as long as anybody waited
            (line,) = [each.fields for each in caplog.records if each.message == "call"]  # type: ignore[attr-defined]
            del line["seconds"]
            refused = {"model": model, "task": task, "outcome": "refused"}
            calls = {"client": "anonymous", "path": path, "status": "503"}
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


async def test_a_call_without_a_key_is_not_told_that_there_is_no_room() -> None:
    async with crowded(api_keys=SecretStr(f"alice:{KEY['X-API-Key']}")) as there:
        call = partial(there.client.post, "/summarize", json={"text": "abc"})
        assert (await call()).status_code == 401
        assert (await call(headers=KEY)).status_code == 503


async def test_a_browser_may_read_that_there_is_no_room() -> None:
    async with crowded(cors_origins=["https://example.org"]) as there:
        headers = {"Origin": "https://example.org"}
        response = await there.client.post("/summarize", json={"text": "abc"}, headers=headers)
        assert response.status_code == 503
        assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"


async def test_a_body_that_grows_too_large_is_told_so() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * 200

    async with crowded() as there:
        headers = {"Content-Type": "application/json"}
        response = await there.client.post("/summarize", content=parts(), headers=headers)
        assert response.status_code == 413


async def test_a_client_that_hangs_up_in_its_body_harms_nobody() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"text": ', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: Message) -> None:
        sent.append(message)

    async with crowded() as there:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/summarize",
            "raw_path": b"/summarize",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "state": {"service": there.app.service},
        }
        await there.app.app(scope, receive, send)
        assert there.app.value("tandem_requests_total", outcome="refused", model="short") == 0
        assert await there.answers() == [200, 200, 200]


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
