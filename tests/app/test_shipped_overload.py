"""What goes wrong, over the real app and a checkpoint that comes with the project."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager
from starlette.types import ASGIApp

from app.factory import create_app
from app.opening import open_service
from app.service import TextService
from app.settings import Settings
from model_core.lean import LeanRunner
from model_core.request import Request
from model_core.runner import EncodeReport, StepReport
from tests.app.connection import Connection
from tests.app.fakes import client_of
from tests.app.waiting import eventually

SETTINGS = Settings(
    translate_model="translate-en-de",
    summarize_model="none",
    max_running_requests=2,
    max_waiting_requests=2,
)
TEXTS = [
    "The coffee is cold.",
    "Where is the station?",
    "She reads.",
    "My brother works near the sea.",
    "Thank you!",
]
LONG: dict[str, Any] = {"num_beams": 4, "min_new_tokens": 100, "max_new_tokens": 100}


@dataclass
class Steps:
    """What a test does to the steps of the real runner: hold them back, or let them raise."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    poison: tuple[int, ...] = ()
    held: list[Request] = field(default_factory=list)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    steps.gate.set()
    admit, step, reset = LeanRunner.admit, LeanRunner.step, LeanRunner.reset

    def admit_and_note(runner: LeanRunner, requests: Sequence[Request]) -> EncodeReport:
        report = admit(runner, requests)
        steps.held += requests
        return report

    def step_in_a_test(runner: LeanRunner) -> StepReport:
        steps.entered.set()
        steps.gate.wait()
        if any(request.source_ids == steps.poison for request in steps.held):
            raise RuntimeError("a secret of the server")
        return step(runner)

    def reset_and_note(runner: LeanRunner) -> None:
        steps.held.clear()
        reset(runner)

    monkeypatch.setattr(LeanRunner, "admit", admit_and_note)
    monkeypatch.setattr(LeanRunner, "step", step_in_a_test)
    monkeypatch.setattr(LeanRunner, "reset", reset_and_note)
    return steps


@dataclass
class Tandem:
    app: ASGIApp
    client: httpx.AsyncClient
    service: TextService

    @property
    def num_running(self) -> int:
        return self.service.routing.models[0].stats().running

    @property
    def num_waiting(self) -> int:
        return self.service.routing.models[0].stats().waiting

    def post(self, text: str | list[str], **body: Any) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.client.post("/translate", json={"text": text, **body}))

    async def translation(self, text: str) -> str:
        response = await self.post(text)
        assert response.status_code == 200, response.text
        translation: str = response.json()["translations"][0]["text"]
        return translation


@asynccontextmanager
async def running(settings: Settings = SETTINGS) -> AsyncIterator[Tandem]:
    service = open_service(settings)
    app = create_app(settings, lambda: service)
    async with LifespanManager(app) as manager, client_of(manager.app) as client:
        yield Tandem(manager.app, client, service)


async def test_a_client_that_hangs_up_in_the_middle_frees_its_slots(steps: Steps) -> None:
    connection = Connection("/translate", {"text": TEXTS[:2], "parameters": LONG})
    async with running() as tandem:
        steps.gate.clear()
        call = asyncio.create_task(connection.call(tandem.app))
        await eventually(lambda: tandem.num_running > 0)
        connection.hang_up()
        steps.gate.set()
        await call
        await eventually(lambda: tandem.num_running + tandem.num_waiting == 0)
        translation = await tandem.translation(TEXTS[0])

    assert "Kaffee" in translation


async def test_a_full_queue_is_answered_with_503_and_when_to_come_back(steps: Steps) -> None:
    async with running() as tandem:
        steps.gate.clear()
        accepted = [tandem.post(TEXTS[0])]
        await eventually(lambda: tandem.num_running == 1)
        accepted += [tandem.post(text) for text in TEXTS[1:3]]
        await eventually(lambda: tandem.num_waiting == 2)
        refused = await tandem.post(TEXTS[4])
        steps.gate.set()
        answered = await asyncio.gather(*accepted)

    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tandem:queue-full")
    assert int(refused.headers["retry-after"]) >= 1
    assert [response.status_code for response in answered] == [200, 200, 200]


async def test_a_list_longer_than_the_queue_is_answered() -> None:
    async with running() as tandem:
        response = await tandem.post(8 * TEXTS)

    assert response.status_code == 200
    assert len(response.json()["translations"]) == 8 * len(TEXTS)


async def test_a_request_whose_step_raises_fails_alone_without_internals(steps: Steps) -> None:
    settings = SETTINGS.model_copy(update={"max_running_requests": 8, "max_waiting_requests": 8})
    async with running(settings) as tandem:
        expected = [await tandem.translation(text) for text in TEXTS[1:]]
        (model,) = tandem.service.routing.models
        steps.poison = model.text.prepare(TEXTS[0], task="translate").source_ids
        steps.gate.clear()
        calls = [tandem.post(text) for text in TEXTS]
        await eventually(lambda: tandem.num_running + tandem.num_waiting == len(TEXTS))
        steps.gate.set()
        failed, *answered = await asyncio.gather(*calls)

    assert failed.status_code == 500
    assert failed.headers["content-type"] == "application/problem+json"
    assert failed.json()["type"] == "urn:tandem:request-failed"
    assert "secret" not in failed.text
    assert "RuntimeError" not in failed.text
    assert [each.json()["translations"][0]["text"] for each in answered] == expected


async def test_a_draining_server_answers_what_it_took_and_refuses_the_rest(steps: Steps) -> None:
    async with running() as tandem:
        steps.gate.clear()
        accepted = tandem.post(TEXTS)
        await eventually(lambda: tandem.num_running > 0)
        draining = asyncio.create_task(tandem.service.drain(60))
        await eventually(lambda: tandem.service.status == "draining")
        refused = await tandem.post(TEXTS[0])
        ready = await tandem.client.get("/ready")
        steps.gate.set()
        answered = await accepted
        assert await draining

    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tandem:unavailable")
    assert refused.headers["connection"] == "close"
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert answered.status_code == 200
    assert len(answered.json()["translations"]) == len(TEXTS)
