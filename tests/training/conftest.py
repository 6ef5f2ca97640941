"""A small tokenizer and small sizes, so that no test needs data."""

import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

from transformers import PreTrainedTokenizerFast

from training.tasks import ModelSize, Preset
from training.tokenizer import train_tokenizer

TEXTS = [
    "The cat sat on the mat.",
    "Die Katze saß auf der Matte.",
    "Tom's flight at 10:45 was late, wasn't it?",
    "Toms Flug um 10:45 Uhr hatte Verspätung, nicht wahr?",
] * 20


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab=330, max_source_len=32)


@pytest.fixture
def size(tokenizer: PreTrainedTokenizerFast) -> ModelSize:
    return ModelSize(
        hidden=16,
        intermediate=32,
        num_heads=2,
        encoder_layers=2,
        decoder_layers=1,
        vocab=len(tokenizer),
        max_source_len=32,
        max_target_len=24,
    )


@pytest.fixture
def preset(size: ModelSize) -> Preset:
    return Preset(size, batch_tokens=60, peak_lr=1e-2, warm_lr=1e-3, warmup_steps=2, ema_decay=0.5)
