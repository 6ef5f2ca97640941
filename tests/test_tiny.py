"""The tiny checkpoints must be worth comparing answers on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tests import tiny

SEQ2SEQ = [*tiny.LEAN_ARCHITECTURES, *tiny.FALLBACK_ARCHITECTURES]


def answers(model: Any, num_beams: int) -> list[tuple[int, ...]]:
    defaults = model.generation_config
    rows = []
    for source in tiny.random_sources(8, eos=defaults.eos_token_id):
        ids = torch.tensor([source])
        rows.append(
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=num_beams,
                no_repeat_ngram_size=0,
                early_stopping=False,
                length_penalty=1.0,
                max_length=32,
            )[0].tolist()
        )
    return [tiny.answer_of(row, [defaults.eos_token_id]) for row in rows]


@pytest.mark.parametrize("name", SEQ2SEQ)
@pytest.mark.parametrize("num_beams", [1, 4])
def test_answers_vary_over_steps_sources_and_lengths(name: str, num_beams: int) -> None:
    tiny.assert_varied(answers(tiny.TINY_ARCHITECTURES[name](), num_beams))


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_checkpoint_survives_the_way_through_a_folder(name: str, tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint(name, tmp_path)
    model, report = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    built = tiny.TINY_ARCHITECTURES[name]().state_dict()
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, built[key]), key


@pytest.mark.parametrize("name", list(tiny.TINY_ARCHITECTURES))
def test_every_token_id_can_be_detokenized(name: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.build_tiny_checkpoint(name, tmp_path))
    for token_id in range(tiny.VOCAB):
        assert isinstance(tokenizer.decode([token_id]), str)
    source = tokenizer("Where is the cold coffee?").input_ids
    assert max(source) < tiny.TINY_ARCHITECTURES[name]().config.get_text_config().vocab_size
    decoded = tokenizer.decode(source, skip_special_tokens=True)
    # Some put a space in front, or before punctuation.
    assert "".join(str(decoded).lower().split()) == "whereisthecoldcoffee?"
