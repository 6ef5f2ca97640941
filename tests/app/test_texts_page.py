"""`docs/texts.md` says what happens to each text; the server and every tokenizer do that."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from asgi_lifespan import LifespanManager

from app.factory import create_app
from app.settings import Settings
from model_core.errors import InvalidParameterError
from model_core.tokens import TextTokenizer
from tests.app.fakes import client_of
from tests.model_core.texts import TOKENIZER_KINDS, control_ids, tokenizer_of

PAGE = (Path(__file__).parents[2] / "docs" / "texts.md").read_text("utf-8")
ROW = re.compile(r'^\| `(".*?")`(?: x (\d+))? \| (.+?) \| .+ \|$', re.MULTILINE)
ROWS = [(literal, int(times or 1), outcome) for literal, times, outcome in ROW.findall(PAGE)]
OUTCOMES = {"refused", "answered", "as its tokens", "too long"}
PATHS = ("/translate", "/summarize")


def body_of(literal: str, times: int, **fields: object) -> str:
    """A body as somebody types it: Python could not encode every one of these texts."""
    text = '"' + times * literal[1:-1] + '"'
    fields = {"parameters": {"max_new_tokens": 2, "min_length": 0, "num_beams": 1}, **fields}
    return f'{{"text": {text}, {json.dumps(fields)[1:]}'


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        LifespanManager(create_app(Settings()), startup_timeout=60) as manager,
        client_of(manager.app) as client,
    ):
        yield client


async def post(client: httpx.AsyncClient, path: str, body: str) -> httpx.Response:
    return await client.post(
        path, content=body.encode(), headers={"Content-Type": "application/json"}
    )


def test_the_page_has_a_row_for_each_outcome() -> None:
    assert {outcome for _, _, outcome in ROWS} == OUTCOMES
    assert len(ROWS) == len(re.findall(r'^\| `"', PAGE, re.MULTILINE))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("literal", "times", "outcome"), ROWS, ids=ascii)
async def test_the_server_does_what_the_page_says(
    literal: str, times: int, outcome: str, path: str, client: httpx.AsyncClient
) -> None:
    response = await post(client, path, body_of(literal, times))
    answer = response.json()
    if outcome == "too long":
        assert (response.status_code, answer["type"]) == (422, "urn:tandem:source-too-long")
        assert answer["source_tokens"] > answer["max_source_tokens"]
        cut = await post(client, path, body_of(literal, times, overflow="truncate"))
        assert cut.status_code == 200, cut.text
        (text,) = cut.json()["translations" if path == "/translate" else "summaries"]
        assert text["truncated"]
        assert text["source_tokens"] == answer["max_source_tokens"]
    elif outcome == "refused":
        assert response.status_code == 422, response.text
        assert (answer.get("field") or answer["errors"][0]["field"]) == "text"
    else:  # the tokenizers that come with the project have tokens for every text
        assert response.status_code == 200, response.text
        (text,) = answer["translations" if path == "/translate" else "summaries"]
        assert not text["truncated"]
        assert answer["usage"]["source_tokens"] == text["source_tokens"] > 0


@pytest.mark.parametrize("path", PATHS)
async def test_a_text_of_a_list_is_refused_by_its_place(
    path: str, client: httpx.AsyncClient
) -> None:
    body = r'{"text": ["tea", "a \udfff b"]}'
    response = await post(client, path, body)
    assert response.status_code == 422
    assert "text" in response.text
    assert "1" in response.text


@pytest.mark.parametrize("literal", [r'"\ud800"', '" "', '""', '"' + "Tee " * 500 + '"'])
async def test_a_prefix_that_is_no_text_is_refused_by_its_name(
    literal: str, client: httpx.AsyncClient
) -> None:
    body = f'{{"text": "Tea.", "target_prefix": {literal}}}'
    response = await post(client, "/translate", body)
    assert response.status_code == 422, response.text
    assert "target_prefix" in response.text


async def test_an_answer_begins_with_its_prefix(client: httpx.AsyncClient) -> None:
    for prefix in ("Die Tasse", "</s> Die"):
        body = json.dumps({"text": "The cup is cold.", "target_prefix": prefix})
        response = await post(client, "/translate", body)
        assert response.status_code == 200, response.text
        assert response.json()["translations"][0]["text"].startswith(prefix)


@pytest.mark.parametrize("name", TOKENIZER_KINDS)
def test_every_tokenizer_does_what_the_page_says(name: str) -> None:
    tokenizer = tokenizer_of(name)
    reader = TextTokenizer(tokenizer)
    for literal, times, outcome in ROWS:
        text = json.loads(literal) * times
        if outcome == "refused" or times > 1:
            continue  # what is refused has no tokens; long texts: tests/model_core/test_tokens.py
        has_tokens = tokenizer(text, add_special_tokens=False).input_ids != []
        assert has_tokens or outcome == "as its tokens", literal
        if has_tokens:
            assert control_ids(tokenizer).isdisjoint(reader.encode(text).body), literal
        else:
            with pytest.raises(InvalidParameterError, match="at least one token"):
                reader.encode(text)
