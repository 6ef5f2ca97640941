"""The real app with the checkpoints that come with the project."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager

from app.factory import create_app
from app.schemas import SummarizeRequest, TranslateRequest
from app.settings import Settings
from tests.app.fakes import client_of

TEXTS = [
    "The coffee is cold.",
    "Where is the station?",
    "I don't know what to say, but I think that you are right about this.",
    "She reads.",
    "My brother has been working in a small town near the sea for three years.",
    "Thank you!",
]


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings())
    async with (
        LifespanManager(app, startup_timeout=60) as manager,
        client_of(manager.app) as client,
    ):
        yield client


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def texts_of(answer: dict[str, Any]) -> list[str]:
    return [each["text"] for each in (answer, *answer["alternatives"])]


@pytest.mark.parametrize(
    ("path", "example"),
    [
        (path, example)
        for path, body in (("/translate", TranslateRequest), ("/summarize", SummarizeRequest))
        for example in body.model_json_schema()["examples"]
    ],
    ids=str,
)
async def test_the_examples_of_the_api_page_are_answered(
    path: str, example: dict[str, Any], client: httpx.AsyncClient
) -> None:
    answer = await post(client, path, **example)

    for each in answer["translations" if path == "/translate" else "summaries"]:
        assert each["text"]
        assert each["score"] < 0


async def test_a_list_gets_the_answers_that_its_texts_get_alone(client: httpx.AsyncClient) -> None:
    alone = [await post(client, "/translate", text=text) for text in TEXTS]
    together = await post(client, "/translate", text=TEXTS)

    assert [each["text"] for each in together["translations"]] == [
        each["translations"][0]["text"] for each in alone
    ]


async def test_calls_with_different_parameters_run_together(client: httpx.AsyncClient) -> None:
    parameters: list[dict[str, Any]] = [
        {"num_beams": 1},
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 3, "max_new_tokens": 3},
        {"num_beams": 4, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    ]

    calls = [post(client, "/translate", text=TEXTS[4], parameters=each) for each in parameters]
    answers = [each["translations"][0] for each in await asyncio.gather(*calls)]

    assert [len(each["alternatives"]) for each in answers] == [0, 2, 0, 0, 0]
    scores = [each["score"] for each in (answers[1], *answers[1]["alternatives"])]
    assert scores == sorted(scores, reverse=True)
    assert (answers[3]["finish_reason"], answers[3]["generated_tokens"]) == ("length", 3)


async def test_a_drawn_answer_names_its_seed_and_can_be_had_again(
    client: httpx.AsyncClient,
) -> None:
    drawn = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 12, "top_k": 20}
    (first,) = (await post(client, "/translate", text=TEXTS[4], parameters=drawn))["translations"]
    repeated, *others = await asyncio.gather(
        post(client, "/translate", text=TEXTS[4], parameters=drawn | {"seed": first["seed"]}),
        *(post(client, "/translate", text=text, parameters=drawn) for text in TEXTS),
    )

    (again,) = repeated["translations"]
    assert len(first["alternatives"]) == 2
    assert again["seed"] == first["seed"]
    assert texts_of(again) == texts_of(first)
    assert len({each["translations"][0]["seed"] for each in others}) == len(TEXTS)


async def test_an_answer_continues_its_prefix(client: httpx.AsyncClient) -> None:
    plain, continued = await asyncio.gather(
        post(client, "/translate", text="The coffee is cold."),
        post(client, "/translate", text="The coffee is cold.", target_prefix="Mein Kaffee"),
    )
    (without,), (answer,) = plain["translations"], continued["translations"]

    assert answer["text"].startswith("Mein Kaffee ")
    assert not without["text"].startswith("Mein")
    assert 0 < answer["generated_tokens"] < without["generated_tokens"] + 4


async def test_an_answer_ends_with_its_stop_string(client: httpx.AsyncClient) -> None:
    parameters = {"stop_strings": ["kal"], "num_beams": 2}
    answer = await post(client, "/translate", text="The coffee is cold.", parameters=parameters)
    (translation,) = answer["translations"]

    assert translation["finish_reason"] == "stop_string"
    assert "kal" in translation["text"]


async def test_a_source_beyond_the_positions_is_refused_or_truncated(
    client: httpx.AsyncClient,
) -> None:
    (model,) = [
        model
        for model in (await client.get("/info")).json()["models"]
        if model["name"] == "summarize-en"
    ]
    text = "word " * 2 * model["max_source_tokens"]
    short = {"max_new_tokens": 4}

    refused = await client.post("/summarize", json={"text": text})
    answer = await post(client, "/summarize", text=text, overflow="truncate", parameters=short)

    assert refused.status_code == 422
    assert refused.json()["max_source_tokens"] == model["max_source_tokens"]
    assert refused.json()["source_tokens"] > model["max_source_tokens"]
    (summary,) = answer["summaries"]
    assert summary["truncated"] is True
    assert summary["source_tokens"] == model["max_source_tokens"]


async def test_the_checkpoint_knows_its_languages(client: httpx.AsyncClient) -> None:
    (model,) = (await client.get("/languages")).json()["models"]
    body = {"text": "tea", "source_lang": "en", "target_lang": "fr"}
    refused = await client.post("/translate", json=body)

    assert (model["source_languages"], model["target_languages"]) == (["en"], ["de"])
    assert refused.status_code == 422
    assert refused.json()["known_languages"] == ["de"]
