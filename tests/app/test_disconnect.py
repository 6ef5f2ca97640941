import asyncio
import json

import pytest
from asgi_lifespan import LifespanManager

from tests.app.connection import Connection
from tests.app.fakes import Backwards
from tests.app.waiting import eventually


@pytest.mark.parametrize("text", ["abc", ["abc", "def", "ghi"]])
async def test_a_client_that_hangs_up_cancels_its_requests(text: str | list[str]) -> None:
    app = Backwards()
    runner = app.runners["short"]
    connection = Connection("/summarize", {"text": text, "parameters": {"max_new_tokens": 10**6}})
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
    connection = Connection("/summarize", {"text": "abc"})

    async with LifespanManager(app.app) as manager:
        await connection.call(manager.app)

    assert connection.sent[0]["status"] == 200
    assert json.loads(connection.sent[1]["body"])["summaries"][0]["text"] == "cba"
