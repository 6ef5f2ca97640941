"""Requests of different languages share a batch, and each gets what it gets alone."""

import pytest

from model_core.generation import GenerationOverrides
from model_core.request import Request
from model_core.text import PreparedSource, TextProcessor
from tests.lean import load_lean
from tests.model_core.texts import checkpoint_of, serve
from tests.parity import assert_same, generate_alone

TEXTS = ("Where is the station?", "Der Kaffee ist kalt.")
NAMES = ("nllb", "m2m100", "mbart", "mbart50", "marian-multi", "madlad")
# The model behind the tokenizers of many languages; see `tests.tiny.multilingual`.
MODELS = {"mbart50": "mbart", "marian-multi": "marian", "madlad": "t5"}


def prepare(name: str, num_beams: int) -> list[PreparedSource]:
    """Every text into several languages, and from several where the tokenizer marks them."""
    checkpoint = checkpoint_of(name)
    languages, text = checkpoint.languages, TextProcessor(checkpoint)
    sources = languages.sources[:2] if languages.marks_source else (None,)
    return [
        text.prepare(
            each,
            task="translate",
            source_lang=source,
            target_lang=target,
            overrides=GenerationOverrides(num_beams=num_beams, max_length=12),
        )
        for each in TEXTS
        for source in sources
        for target in languages.targets[-3:]
    ]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_requests_of_different_languages_go_through_one_step_together(
    name: str, num_beams: int
) -> None:
    runner = load_lean(MODELS.get(name, name)).runner()
    requests = [
        Request(str(index), each.source_ids, each.parameters)
        for index, each in enumerate(prepare(name, num_beams))
    ]
    assert {request.source_len for request in requests} < set(range(33))  # one group of slots
    runner.admit(requests)
    assert runner.step().num_rows == len(requests) * num_beams
    assert len(runner._groups) == 1


@pytest.mark.parametrize("name", NAMES)
def test_each_gets_the_tokens_of_generate_with_its_own_language(name: str) -> None:
    model = serve(name)
    sources = [*prepare(name, 1), *prepare(name, 3)]
    futures = [model.submit(each) for each in sources]
    while model.engine.step():
        pass
    outputs = [future.result(timeout=0) for future in futures]
    for prepared, output in zip(sources, outputs, strict=True):
        reference = generate_alone(model.checkpoint.model, prepared.source_ids, prepared.parameters)
        assert_same(output, reference)
    assert len({output.best.token_ids for output in outputs}) > len(TEXTS)
