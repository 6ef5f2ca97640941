"""Checkpoints that users start from, set up by the entries of the documentation.

Tiny replicas under the names of the public ones; the answers are those of the code in their model
cards, run with transformers.
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertTokenizer,
    EncoderDecoderModel,
    GPT2Tokenizer,
    LEDForConditionalGeneration,
)

from app.checkpoint_settings import read_checkpoint_settings
from app.opening import open_service
from app.settings import Settings
from model_core.generation import GenerationOverrides
from model_core.models import ServedModel
from model_core.text import Task
from tests import tiny
from tests.tiny.public import ARTICLES, build_bert2bert_cnn_dailymail, build_bert2bert_wmt_en_de

PAGE = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"<!-- entry: (\S+) -->\n```toml\n(.*?)```", PAGE, re.DOTALL))


def serve(folder: Path, task: Task, entry: str, **folders: Path) -> ServedModel:
    """The only model of a service whose settings are an entry of the page.

    Args:
        folder: Takes the place of the checkpoint's name.
        task: What it serves.
        entry: Of the page.
        folders: Take the place of other values, by key.
    """
    text = re.sub(r"^\[.*\]$", f'["{folder}"]', ENTRIES[entry], flags=re.MULTILINE)
    for key, other in folders.items():
        text, num_found = re.subn(rf"^{key} = .*$", f'{key} = "{other}"', text, flags=re.MULTILINE)
        assert num_found == 1
    file = folder.parent / "checkpoints.toml"
    file.write_text(text, encoding="utf-8")
    names = ((str(folder),), ()) if task == "translate" else ((), (str(folder),))
    settings = Settings(
        translate_model=names[0],
        summarize_model=names[1],
        checkpoints_file=str(file),
        device="cpu",
        num_threads=1,
    )
    (model,) = open_service(settings).routing.models
    return model


def answers(
    model: ServedModel, texts: Sequence[str], task: Task, **overrides: Any
) -> list[tuple[list[int], str]]:
    """Tokens and text of each answer, all texts in one batch."""
    futures = [
        model.submit(
            model.text.prepare(text, task=task, overrides=GenerationOverrides(**overrides))
        )
        for text in texts
    ]
    while model.engine.step():
        pass
    found = [list(future.result(timeout=0).best.token_ids) for future in futures]
    assert len({tuple(token_ids) for token_ids in found}) == len(texts)
    return [(token_ids, model.text.detokenize(token_ids)) for token_ids in found]


def test_every_entry_of_the_page_is_valid_under_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "checkpoints.toml"
    file.write_text("\n".join(ENTRIES.values()), encoding="utf-8")

    settings = read_checkpoint_settings(str(file))

    assert [name.rpartition("/")[2] for name in settings] == list(ENTRIES)
    assert len(tomllib.loads(file.read_text(encoding="utf-8"))) == len(ENTRIES) >= 4


def test_bert2bert_summarizes_as_its_card_does(tmp_path: Path) -> None:
    folder = build_bert2bert_cnn_dailymail(tmp_path / "replica")
    model = serve(folder, "summarize", "bert2bert-cnn_dailymail-fp16")
    assert model.family == "bert"

    found = answers(model, ARTICLES, "summarize")

    card_model: Any = EncoderDecoderModel.from_pretrained(folder)
    tokenizer = BertTokenizer.from_pretrained(folder)
    for article, (token_ids, text) in zip(ARTICLES, found, strict=True):
        input_ids = tokenizer(article, return_tensors="pt").input_ids
        output_ids = card_model.generate(input_ids)
        assert [101, *token_ids] == output_ids[0].tolist()
        assert text == tokenizer.decode(output_ids[0], skip_special_tokens=True)
        assert 56 <= len(token_ids) < 141
        assert token_ids[-1] == 102


def test_bert2bert_translates_as_its_card_does(tmp_path: Path) -> None:
    folder = build_bert2bert_wmt_en_de(tmp_path / "replica")
    model = serve(folder, "translate", "bert2bert_L-24_wmt_en_de")
    assert model.family == "bert"
    assert model.checkpoint.languages.choose("en", "de").target_lang == "de"
    sentences = tiny.SENTENCES[:6]

    found = answers(model, sentences, "translate")

    tokenizer = AutoTokenizer.from_pretrained(
        folder, pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )
    card_model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)
    for sentence, (token_ids, text) in zip(sentences, found, strict=True):
        input_ids = tokenizer(sentence, return_tensors="pt", add_special_tokens=False).input_ids
        output_ids = card_model.generate(input_ids)[0]
        assert [2, *token_ids] == output_ids.tolist()
        assert text == tokenizer.decode(output_ids, skip_special_tokens=True)


def test_bert2gpt2_reads_with_one_tokenizer_and_writes_with_another(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("bert2gpt2", tmp_path / "replica")
    for path in folder.glob("*token*"):
        path.unlink()
    source_folder = tiny.build_tiny_checkpoint("bert2bert", tmp_path / "source")
    target_folder = tiny.build_tiny_checkpoint("gpt2", tmp_path / "target")
    model = serve(
        folder,
        "summarize",
        "bert2gpt2-cnn_dailymail-fp16",
        tokenizer_name=source_folder,
        target_tokenizer_name=target_folder,
    )
    assert model.family == "gpt2"

    found = answers(model, ARTICLES, "summarize", num_beams=2)

    card_model: Any = EncoderDecoderModel.from_pretrained(folder)
    bert_tokenizer = BertTokenizer.from_pretrained(source_folder)
    gpt2_tokenizer = GPT2Tokenizer.from_pretrained(target_folder)
    for article, (_, text) in zip(ARTICLES, found, strict=True):
        input_ids = bert_tokenizer(article, return_tensors="pt").input_ids
        mask = torch.ones_like(input_ids)
        output_ids = card_model.generate(input_ids, attention_mask=mask, num_beams=2)
        assert text == gpt2_tokenizer.decode(output_ids[0], skip_special_tokens=True)


def test_led_summarizes_with_global_attention_as_its_card_does(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("led", tmp_path / "replica")
    model = serve(folder, "summarize", "led-large-16384-arxiv")

    articles = tiny.SENTENCES[:6]

    found = answers(model, articles, "summarize")

    card_model: Any = LEDForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for article, (token_ids, _) in zip(articles, found, strict=True):
        input_ids = tokenizer(article, return_tensors="pt").input_ids
        global_attention_mask = torch.zeros_like(input_ids)
        global_attention_mask[:, 0] = 1
        output_ids = card_model.generate(input_ids, global_attention_mask=global_attention_mask)
        assert token_ids == output_ids[0].tolist()[1:]
