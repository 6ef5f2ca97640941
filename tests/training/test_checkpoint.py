from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from training.checkpoint import generation_config, load_checkpoint, save_checkpoint
from training.evaluate import decode
from training.model import build_model
from training.tasks import TRANSLATE, GenerationDefaults, ModelSize

TASK = replace(
    TRANSLATE,
    generation=GenerationDefaults(max_length=12, no_repeat_ngram_size=0, length_penalties=(1.0,)),
)


def test_a_reloaded_checkpoint_answers_like_the_model(
    tokenizer: PreTrainedTokenizerFast, size: ModelSize, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build_model(size, dropout=0.1)
    generation = generation_config(TASK, length_penalty=0.8)
    save_checkpoint(model, tokenizer, generation, tmp_path, languages=("en", "de"))
    sources = ["The cat sat.", "10 mats", "Tom's flight was late, wasn't it?"]
    answers = decode(model.float(), tokenizer, sources, generation)  # type: ignore[no-untyped-call]

    loaded, loaded_tokenizer = load_checkpoint(tmp_path)

    assert loaded.generation_config.to_diff_dict() == generation.to_diff_dict()
    assert decode(loaded, loaded_tokenizer, sources, loaded.generation_config) == answers
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert loaded_tokenizer.model_max_length == size.max_source_len
    assert loaded.config.tandem == {"source_lang": "en", "target_lang": "de"}
