import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from asgi_lifespan import LifespanManager
from starlette.types import ASGIApp

from tests.app.fakes import Backwards
from tests.app.waiting import eventually


class Connection:
    """A client on the other side of ASGI, which may hang up."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = json.dumps(body).encode()
        self._is_body_sent = False
        self._hung_up = asyncio.Event()
        self.sent: list[MutableMapping[str, Any]] = []

    @property
    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/summarize",
            "raw_path": b"/summarize",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("client", 1),
            "server": ("tandem", 80),
        }

    def hang_up(self) -> None:
        self._hung_up.set()

    async def call(self, app: ASGIApp) -> None:
        await app(self.scope, self.receive, self.send)

    async def receive(self) -> MutableMapping[str, Any]:
        if not self._is_body_sent:
            self._is_body_sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("text", ["abc", ["abc", "def", "ghi"]])
async def test_a_client_that_hangs_up_cancels_its_requests(text: str | list[str]) -> None:
    app = Backwards()
    runner = app.runners["short"]
    connection = Connection({"text": text, "parameters": {"max_new_tokens": 10**6}})
    num_texts = 1 if isinstance(text, str) else len(text)

    async with LifespanManager(app.app) as manager:
        call = asyncio.create_task(connection.call(manager.app))
        await eventually(lambda: app.value("tandem_running_requests", model="short") == num_texts)
        connection.hang_up()
        await call
        await eventually(lambda: app.value("tandem_running_requests", model="short") == 0)

    assert not runner.slots
    labels = {"model": "short", "task": "summarize"}
    assert app.value("tandem_requests_total", outcome="cancelled", **labels) == num_texts
    assert app.value("tandem_cancelled_requests_total", **labels) == num_texts


async def test_a_client_that_stays_gets_its_answer() -> None:
    app = Backwards()
    connection = Connection({"text": "abc"})

    async with LifespanManager(app.app) as manager:
        await connection.call(manager.app)

    assert connection.sent[0]["status"] == 200
    assert json.loads(connection.sent[1]["body"])["summaries"][0]["text"] == "cba"
