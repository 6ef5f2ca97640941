"""The shipped checkpoints answer real sentences with the tokens of `generate()`."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import SHIPPED
from model_core.checkpoint import CheckpointOptions
from model_core.generation import GenerationLimits, GenerationOverrides, Task
from model_core.models import ModelSet, ModelSource, ServedModel, load_models
from model_core.scheduler import EngineLimits
from tests.parity import assert_same, generate_alone

SENTENCES = (
    (Path(__file__).parents[1] / "benchmarks" / "sentences.txt").read_text("utf-8").splitlines()
)
SHIPPED_MODELS: dict[Task, str] = {"translate": "translate-en-de", "summarize": "summarize-en"}
PARAMETERS = (
    GenerationOverrides(),  # the checkpoint's own: beam search
    GenerationOverrides(num_beams=1),
    GenerationOverrides(num_beams=3, length_penalty=0.0, early_stopping=False),
)


def texts(task: Task, count: int) -> Iterator[str]:
    """Single sentences and pairs to translate, paragraphs to summarize."""
    rng = random.Random(count)
    pairs = (" ".join(rng.sample(SENTENCES, 2)) for _ in itertools.count())
    paragraphs = (" ".join(rng.sample(SENTENCES, rng.randint(3, 12))) for _ in itertools.count())
    drawn = itertools.chain(SENTENCES, pairs) if task == "translate" else paragraphs
    return itertools.islice(drawn, count)


@pytest.fixture(scope="module")
def models() -> Iterator[ModelSet]:
    sources = [ModelSource(name, str(SHIPPED / name)) for name in SHIPPED_MODELS.values()]
    limits = EngineLimits(max_running_requests=12, max_encode_tokens=600)
    loaded = load_models(
        sources,
        CheckpointOptions(device="cpu"),
        limits,
        GenerationLimits(),
        encoder_cache_bytes=10**6,
    )
    loaded.start()
    yield loaded
    loaded.close()


def check(model: ServedModel, task: Task, count: int) -> None:
    prepared = [
        model.text.prepare(text, task=task, overrides=overrides)
        for text, overrides in zip(texts(task, count), itertools.cycle(PARAMETERS), strict=False)
    ]
    futures = [model.submit(source) for source in prepared]
    answers = set()
    for source, future in zip(prepared, futures, strict=True):
        output = future.result(timeout=300)
        reference = generate_alone(model.checkpoint.model, source.source_ids, source.parameters)
        assert_same(output, reference)
        answers.add(output.best.token_ids)
    assert len(answers) > count // 2, "answers do not depend on their source"


@pytest.mark.parametrize("task", list(SHIPPED_MODELS))
def test_shipped_checkpoint_is_served_lean_and_exact(models: ModelSet, task: Task) -> None:
    model = models.models[SHIPPED_MODELS[task]]
    assert model.family == "bert"
    check(model, task, 20)


@pytest.mark.slow
@pytest.mark.parametrize("task", list(SHIPPED_MODELS))
def test_shipped_checkpoint_is_exact_on_two_hundred_texts(models: ModelSet, task: Task) -> None:
    check(models.models[SHIPPED_MODELS[task]], task, 200)
