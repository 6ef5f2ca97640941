import asyncio
from typing import Any

import httpx
import pytest

from app.schemas import Parameters, SummarizeRequest, TranslateRequest
from app.settings import Settings
from tests.app.fakes import MAX_SOURCE_LEN, POISON, Backwards
from tests.app.waiting import eventually


async def test_a_text_is_answered_with_its_counts() -> None:
    async with Backwards().client() as client:
        response = await client.post("/summarize", json={"text": "abc"})

    assert response.status_code == 200
    assert response.json() == {
        "model": "short",
        "summaries": [
            {
                "text": "cba",
                "score": -1.0,
                "finish_reason": "eos",
                "truncated": False,
                "source_tokens": 3,
                "generated_tokens": 3,
                "alternatives": [],
            }
        ],
        "usage": {"source_tokens": 3, "generated_tokens": 3},
    }


async def test_answers_of_a_list_keep_its_order_and_their_usage_is_summed() -> None:
    texts = [chr(ord("a") + number) * (1 + number % 7) for number in range(26)]
    steps = [1 + (7 * number) % 5 for number in range(26)]
    app = Backwards(max_running_requests=3)

    async with app.client() as client:
        calls = [
            client.post("/summarize", json={"text": part, "parameters": {"max_new_tokens": count}})
            for part, count in ((texts, steps[0]), (texts[::-1], steps[1]))
        ]
        first, second = [response.json() for response in await asyncio.gather(*calls)]

    assert [each["text"] for each in first["summaries"]] == texts
    assert [each["text"] for each in second["summaries"]] == texts[::-1]
    assert first["usage"]["source_tokens"] == sum(map(len, texts))


@pytest.mark.parametrize(
    ("languages", "model"),
    [
        ({"source_lang": "en", "target_lang": "de"}, "en-de"),
        ({"source_lang": "de", "target_lang": "en"}, "de-en"),
        ({"target_lang": "en"}, "de-en"),
        ({"source_lang": "en"}, "en-de"),
    ],
)
async def test_a_translation_goes_to_the_checkpoint_of_its_language_pair(
    languages: dict[str, str], model: str
) -> None:
    async with Backwards().client() as client:
        response = await client.post("/translate", json={"text": "tea", **languages})

    assert response.json()["model"] == model


async def test_languages_may_be_left_out_where_there_is_one_pair() -> None:
    settings = Settings(translate_model="en-de", summarize_model="none")
    async with Backwards(settings).client() as client:
        response = await client.post("/translate", json={"text": "tea"})

    assert response.json()["translations"][0]["text"] == "aet"


async def test_one_checkpoint_can_serve_both_tasks() -> None:
    settings = Settings(translate_model="t5", summarize_model="t5")
    app = Backwards(settings)
    async with app.client() as client:
        models = [
            (await client.post(path, json={"text": "a"})).json()["model"]
            for path in ("/translate", "/summarize")
        ]

    assert models == ["t5", "t5"]
    assert list(app.runners) == ["t5"]


async def test_overflow_truncate_answers_for_the_beginning_and_says_so() -> None:
    body = {"text": "x" * 2 * MAX_SOURCE_LEN, "overflow": "truncate"}
    app = Backwards()
    async with app.client() as client:
        (answer,) = (await client.post("/summarize", json=body)).json()["summaries"]

    assert answer["truncated"] is True
    assert answer["source_tokens"] == MAX_SOURCE_LEN
    assert app.value("tandem_truncated_requests_total", model="short", task="summarize") == 1


async def test_a_full_queue_is_answered_with_503_and_when_to_come_back() -> None:
    app = Backwards(max_running_requests=1, max_waiting_requests=1)
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        accepted = [asyncio.create_task(client.post("/summarize", json={"text": "a"}))]
        await eventually(runner.entered.is_set)
        accepted.append(asyncio.create_task(client.post("/summarize", json={"text": "b"})))
        await eventually(lambda: app.value("tandem_waiting_requests", model="short") == 1)

        refused = await client.post("/summarize", json={"text": "c"})
        runner.gate.set()
        answered = await asyncio.gather(*accepted)

    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:tandem:queue-full"
    assert int(refused.headers["retry-after"]) >= 1
    assert [response.status_code for response in answered] == [200, 200]
    assert _ended(app, "refused") == 1
    assert _ended(app, "finished") == 2


async def test_a_call_that_is_not_done_in_its_time_is_answered_with_504() -> None:
    app = Backwards()
    runner = app.runners["short"]
    async with app.client() as client:
        body = {"text": "a", "parameters": {"max_new_tokens": 10**6}, "timeout_s": 0.05}
        response = await client.post("/summarize", json=body)
        await eventually(lambda: not runner.slots)

    assert response.status_code == 504
    assert response.json()["type"] == "urn:tandem:deadline-exceeded"
    assert _ended(app, "expired") == 1


async def test_a_text_that_fails_gives_up_the_others_of_its_call() -> None:
    app = Backwards()
    runner = app.runners["short"]
    async with app.client() as client:
        endless = {"max_new_tokens": 3}
        body = {"text": ["a" * 5, POISON, "b" * 5], "parameters": endless}
        response = await client.post("/summarize", json=body)
        await eventually(lambda: not runner.slots)

    assert response.status_code == 500
    assert response.json()["index"] == 1
    ended = [_ended(app, outcome) for outcome in ("finished", "failed", "cancelled")]
    assert sum(ended) == 3
    assert ended[1] == 1


async def test_identical_requests_in_flight_share_their_work() -> None:
    app = Backwards()
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        calls = [
            asyncio.create_task(client.post("/summarize", json={"text": "abc"})) for _ in "123"
        ]
        avoided = "tandem_encoder_runs_avoided_total"
        await eventually(lambda: app.value(avoided, model="short", outcome="coalesced") == 2)
        runner.gate.set()
        answers = {response.text for response in await asyncio.gather(*calls)}

    assert len(answers) == 1
    assert [len(each) for each in runner.admissions] == [1]


@pytest.mark.parametrize(
    ("path", "body", "example"),
    [
        (path, body, example)
        for path, body in (("/translate", TranslateRequest), ("/summarize", SummarizeRequest))
        for example in body.model_json_schema()["examples"]
    ],
    ids=str,
)
async def test_the_examples_of_the_api_page_are_answered(
    path: str, body: type[Any], example: dict[str, Any]
) -> None:
    settings = Settings(translate_model="en-de", summarize_model="short")
    async with Backwards(settings).client() as client:
        response = await client.post(path, json={**example, "overflow": "truncate"})

    assert response.status_code == 200, response.text
    assert body.model_validate(example)


@pytest.mark.parametrize("example", Parameters.model_json_schema()["examples"], ids=str)
def test_the_examples_of_parameters_are_parameters(example: dict[str, Any]) -> None:
    overrides = Parameters.model_validate(example).overrides()

    assert {name: getattr(overrides, name) for name in example} == example


def _ended(app: Backwards, outcome: str) -> float:
    return app.value("tandem_requests_total", model="short", task="summarize", outcome=outcome)


async def test_health_and_readiness_fail_once_the_engine_is_dead() -> None:
    app = Backwards()
    async with app.client() as client:
        before: list[httpx.Response] = [await client.get(path) for path in ("/health", "/ready")]
        app.loaded.close()
        after: list[httpx.Response] = [await client.get(path) for path in ("/health", "/ready")]
        refused = await client.post("/summarize", json={"text": "abc"})

    assert [each.status_code for each in before] == [200, 200]
    assert [(each.status_code, each.json()["status"]) for each in after] == [(503, "dead")] * 2
    assert refused.status_code == 503
