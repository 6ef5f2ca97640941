import asyncio

from pydantic import SecretStr

from tests.app.fakes import SETTINGS, Backwards
from tests.app.waiting import eventually

ENDLESS = {"max_new_tokens": 10**6}


async def test_calls_are_refused_while_the_server_drains_and_those_in_flight_end() -> None:
    app = Backwards()
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        accepted = asyncio.create_task(client.post("/summarize", json={"text": "abc"}))
        await eventually(runner.entered.is_set)
        draining = asyncio.create_task(app.service.drain(60))
        await eventually(lambda: app.service.status == "draining")

        refused = await client.post("/summarize", json={"text": "def"})
        ready = await client.get("/ready")
        health = await client.get("/health")
        runner.gate.set()
        answered = await accepted
        assert await draining

    assert refused.headers["connection"] == "close"
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:tandem:unavailable")
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert answered.json()["summaries"][0]["text"] == "cba"


async def test_a_list_that_was_taken_is_answered_in_full_while_the_server_drains() -> None:
    app = Backwards(max_running_requests=1, max_waiting_requests=2)
    runner = app.runners["short"]
    texts = [f"text {number}" for number in range(9)]
    async with app.client() as client:
        runner.gate.clear()
        accepted = asyncio.create_task(client.post("/summarize", json={"text": texts}))
        await eventually(runner.entered.is_set)
        draining = asyncio.create_task(app.service.drain(60))
        await eventually(lambda: app.service.status == "draining")
        runner.gate.set()
        answered = await accepted
        assert await draining

    assert [each["text"] for each in answered.json()["summaries"]] == [t[::-1] for t in texts]


async def test_calls_that_do_not_end_while_the_server_drains_are_answered_with_503() -> None:
    app = Backwards()
    runner = app.runners["short"]
    async with app.client() as client:
        body = {"text": ["abc", "def"], "parameters": ENDLESS}
        decoding = asyncio.create_task(client.post("/summarize", json=body))
        await eventually(runner.entered.is_set)
        app.loaded.models["en-de"].text.gate.clear()
        waiting = asyncio.create_task(
            client.post("/translate", json={"text": "a", "source_lang": "en"})
        )
        await eventually(lambda: app.service.num_in_flight == 2)

        assert not await app.service.drain(0)
        await app.service.close()
        cut_off = await asyncio.gather(decoding, waiting)

    for response in cut_off:
        assert (response.status_code, response.json()["type"]) == (503, "urn:tandem:unavailable")
        assert response.headers["connection"] == "close"
        assert "retry-after" in response.headers


async def test_whatever_a_server_that_is_leaving_answers_closes_the_connection() -> None:
    key = "a-key-of-one-who-may-call"
    bounds = {"max_header_bytes": 1024, "max_body_bytes": 64, "quota_texts_per_minute": 1}
    app = Backwards(SETTINGS.model_copy(update={"api_keys": SecretStr(f"bob:{key}"), **bounds}))
    async with app.client() as client:
        authorised = {"X-API-Key": key}
        client.headers["Connection"] = "keep-alive"
        app.service.leave()
        answers = [
            await client.get("/nowhere", headers=authorised),
            await client.get("/info"),
            await client.head("/translate", headers=authorised),
            await client.get("/info", headers={"X-Long": "x" * 2000}),
            await client.post("/summarize", content=b"x" * 100, headers=authorised),
            await client.post("/summarize", content=b"{", headers=authorised),
            await client.post("/summarize", json={"text": "a"}, headers=authorised),
            await client.post("/summarize", json={"text": "b"}, headers=authorised),
        ]

    statuses = [answer.status_code for answer in answers]
    assert statuses == [404, 401, 405, 431, 413, 422, 200, 429]
    assert [answer.headers.get("connection") for answer in answers] == ["close"] * len(answers)
