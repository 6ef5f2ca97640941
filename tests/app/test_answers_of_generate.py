"""Every figure of an answer, held against transformers alone: none of our code makes the other."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch
from asgi_lifespan import LifespanManager
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from app.factory import create_app
from app.settings import SHIPPED, Settings
from tests import tiny
from tests.app.fakes import client_of

TEXTS = (*tiny.SENTENCES[:5], "She reads a book.")
PARAMETERS: dict[str, dict[str, Any]] = {
    "checkpoint's own": {},
    "greedy": {"num_beams": 1},
    "greedy, long": {"num_beams": 1, "length_penalty": 2.0, "early_stopping": False},
    "greedy, cut": {"num_beams": 1, "max_new_tokens": 3},
    "beam, cut": {"num_beams": 3, "max_new_tokens": 4, "num_return_sequences": 2},
    "beam, many": {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.5},
    "beam, sum": {"num_beams": 2, "length_penalty": 0.0, "early_stopping": "never"},
    "processed": {"num_beams": 3, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
}


@dataclass(frozen=True)
class Service:
    """A checkpoint behind the API, and the same as transformers loads it."""

    client: httpx.AsyncClient
    model: Any
    tokenizer: Any

    async def answers(self, body: dict[str, Any]) -> dict[str, Any]:
        response = await self.client.post("/translate", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture(scope="module", params=["bart", "translate-en-de"])
async def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    folder = SHIPPED / request.param
    if not folder.is_dir():
        folder = tiny.build_tiny_checkpoint(request.param, tmp_path_factory.mktemp("tiny"))
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    app = create_app(Settings(translate_model=(str(folder),), summarize_model=()))
    async with (
        LifespanManager(app, startup_timeout=60) as manager,
        client_of(manager.app) as client,
    ):
        yield Service(client, model.eval(), AutoTokenizer.from_pretrained(folder))


@dataclass(frozen=True)
class Expected:
    """One hypothesis of `generate()`."""

    text: str
    score: float
    finish_reason: str
    generated_tokens: int


def expected_of(service: Service, source: Any, parameters: dict[str, Any]) -> list[Expected]:
    """What `generate(return_dict_in_generate=True, output_scores=True)` says of one source."""
    model = service.model
    with torch.inference_mode():
        result = model.generate(
            **source, **parameters, return_dict_in_generate=True, output_scores=True
        )
    config = {**model.generation_config.to_dict(), **parameters}
    beams = config["num_beams"] not in (None, 1)
    transitions = model.compute_transition_scores(
        result.sequences,
        result.scores,
        result.beam_indices if beams else None,
        normalize_logits=not beams,
    )
    most = parameters.get("max_new_tokens") or config["max_length"] - 1
    expected = []
    for row, tokens in enumerate(result.sequences[:, 1:].tolist()):
        count = int((result.beam_indices[row] >= 0).sum()) if beams else len(tokens)
        penalty = config["length_penalty"]
        score = float(transitions[row, :count].sum()) / count ** (
            1.0 if penalty is None else penalty
        )
        if beams:
            assert score == pytest.approx(float(result.sequences_scores[row]), rel=1e-4, abs=1e-4)
        ended = tokens[count - 1] == config["eos_token_id"]
        was_forced = count == most and config["forced_eos_token_id"] is not None
        expected.append(
            Expected(
                service.tokenizer.decode(tokens[:count], skip_special_tokens=True),
                score,
                "eos" if ended and not was_forced else "length",
                count,
            )
        )
    return expected


def check(answer: dict[str, Any], expected: list[Expected]) -> None:
    for ours, theirs in zip([answer, *answer["alternatives"]], expected, strict=True):
        assert ours["text"] == theirs.text
        assert ours["score"] == pytest.approx(theirs.score, rel=1e-4, abs=1e-4)
    assert answer["finish_reason"] == expected[0].finish_reason
    assert answer["generated_tokens"] == expected[0].generated_tokens


@pytest.mark.parametrize("name", PARAMETERS)
async def test_every_figure_of_an_answer_is_that_of_generate(service: Service, name: str) -> None:
    parameters = PARAMETERS[name]
    body = {"text": TEXTS, "parameters": parameters}

    answer = await service.answers(body)

    sources = [service.tokenizer(text, return_tensors="pt") for text in TEXTS]
    for ours, source in zip(answer["translations"], sources, strict=True):
        names = ("input_ids", "attention_mask")
        check(ours, expected_of(service, {each: source[each] for each in names}, parameters))
        assert ours["source_tokens"] == source.input_ids.shape[1]
        assert ours["truncated"] is False
    for count in ("source_tokens", "generated_tokens"):
        assert answer["usage"][count] == sum(each[count] for each in answer["translations"])
    reasons = {each["finish_reason"] for each in answer["translations"]}
    assert reasons == {"length"} if "cut" in name else "eos" in reasons


async def test_a_truncated_text_is_answered_as_generate_answers_its_beginning(
    service: Service,
) -> None:
    (model,) = (await service.client.get("/info")).json()["models"]
    most = model["max_source_tokens"]
    text = " ".join(TEXTS * most)
    parameters = {"max_new_tokens": 5, "num_beams": 2}

    answer = await service.answers(
        {"text": [text, TEXTS[0]], "overflow": "truncate", "parameters": parameters}
    )

    source = service.tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
    names = ("input_ids", "attention_mask")
    cut, whole = answer["translations"]
    check(cut, expected_of(service, {each: source[each] for each in names}, parameters))
    assert (cut["source_tokens"], cut["truncated"]) == (most, True)
    assert whole["truncated"] is False
