"""An answer that begins as the caller says: the text side of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_core.checkpoint import CheckpointOptions, load_checkpoint
from model_core.errors import InvalidParameterError
from model_core.generation import GenerationLimits, GenerationOverrides
from model_core.text import PreparedSource, TextProcessor
from tests import tiny
from tests.model_core.texts import checkpoint_of, control_ids, load_tokenizer, serve, tokenizer_of
from tests.parity import assert_same, generate_alone
from tests.tiny.multilingual import change_json
from tests.tiny.tokenizers import sentencepiece_model

TEXT = "Where is the cold coffee?"
PREFIX = "Wo ist"
TRANSLATORS = ("mbart", "mbart50", "nllb", "m2m100", "plbart", "marian-multi", "t5", "bart")


def prepare(name: str, **changes: Any) -> PreparedSource:
    checkpoint = checkpoint_of(name)
    languages = checkpoint.languages
    wanted: dict[str, Any] = {
        "target_prefix": PREFIX,
        "source_lang": languages.sources[0] if languages.sources else None,
        "target_lang": languages.targets[-1] if languages.targets else None,
    }
    return TextProcessor(checkpoint).prepare(TEXT, task="translate", **{**wanted, **changes})


@pytest.mark.parametrize("name", ["nllb", "m2m100"])
def test_the_forced_language_is_the_first_token_of_the_prompt(name: str) -> None:
    parameters = prepare(name).parameters
    assert parameters.forced_bos_token_id is not None
    prefix = tokenizer_of(name)(PREFIX, add_special_tokens=False).input_ids
    assert parameters.prompt_ids == (
        parameters.decoder_start_token_id,
        parameters.forced_bos_token_id,
        *prefix,
    )


def test_a_language_in_the_place_of_the_start_token_is_not_repeated() -> None:
    parameters = prepare("mbart", target_lang="ro").parameters
    prefix = tokenizer_of("mbart")(PREFIX, add_special_tokens=False).input_ids
    romanian = tokenizer_of("mbart").convert_tokens_to_ids("ro_RO")
    assert parameters.prompt_ids == (romanian, *prefix)


def test_a_first_token_that_the_checkpoint_or_the_request_forces_goes_before_the_prefix(
    tmp_path: Path,
) -> None:
    folder = tiny.build_tiny_checkpoint("bart", tmp_path)
    change_json(folder / "generation_config.json", forced_bos_token_id=0)
    text = TextProcessor(load_checkpoint(str(folder), CheckpointOptions(device="cpu")))
    plain = text.prepare(TEXT, task="summarize", target_prefix=PREFIX).parameters
    prefix = tuple(tokenizer_of("led")(PREFIX, add_special_tokens=False).input_ids)
    assert plain.target_prefix_ids == (0, *prefix)
    overrides = GenerationOverrides(forced_bos_token_id=9)
    asked = text.prepare(TEXT, task="summarize", target_prefix=PREFIX, overrides=overrides)
    assert asked.parameters.target_prefix_ids == (9, *prefix)


def test_marian_reads_the_prefix_with_the_sentencepiece_model_of_the_target(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("marian", tmp_path)
    (folder / "target.spm").write_bytes(sentencepiece_model(70, unk=1, bos=-1, eos=0, pad=-1))
    text = TextProcessor(load_checkpoint(str(folder), CheckpointOptions(device="cpu")))
    source = text.prepare(TEXT, task="translate", target_prefix=TEXT)
    tokenizer = load_tokenizer(folder)
    expected = tokenizer(text_target=TEXT, add_special_tokens=False).input_ids
    assert list(source.parameters.target_prefix_ids) == expected
    assert list(source.source_ids) == tokenizer(TEXT).input_ids
    assert expected != tokenizer(TEXT, add_special_tokens=False).input_ids
    again = text.prepare(TEXT, task="translate", target_prefix="a </s>")
    assert control_ids(tokenizer).isdisjoint(again.parameters.target_prefix_ids)


def test_fsmt_reads_the_prefix_with_the_vocabulary_of_the_target(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("fsmt", tmp_path)
    path = folder / "vocab-tgt.json"
    vocab: dict[str, int] = json.loads(path.read_text())
    special, ordinary = list(vocab)[:4], list(vocab)[4:]
    target = {token: index for index, token in enumerate([*special, *reversed(ordinary)])}
    path.write_text(json.dumps(target))
    text = TextProcessor(load_checkpoint(str(folder), CheckpointOptions(device="cpu")))
    source = text.prepare(TEXT, task="translate", target_prefix=PREFIX)
    prefix = source.parameters.target_prefix_ids
    assert text.detokenize(prefix) == PREFIX
    tokens = load_tokenizer(folder).tokenize(PREFIX)
    assert list(prefix) == [target[token] for token in tokens]
    assert list(source.source_ids[:-1]) == [
        vocab.get(token, 3) for token in load_tokenizer(folder).tokenize(TEXT)
    ]


@pytest.mark.parametrize("name", ["nllb", "marian", "t5", "bart", "m2m100"])
def test_special_tokens_in_a_prefix_are_text(name: str) -> None:
    plain = prepare(name).parameters.target_prefix_ids
    marked = prepare(name, target_prefix=f"{PREFIX} </s>").parameters.target_prefix_ids
    assert marked[: len(plain)] == plain
    eos = checkpoint_of(name).tokenizer.convert_tokens_to_ids("</s>")
    assert len(marked) > len(plain)
    assert eos not in marked


@pytest.mark.parametrize("target_prefix", [None, ""])
def test_no_prefix_is_none(target_prefix: str | None) -> None:
    parameters = prepare("nllb", target_prefix=target_prefix).parameters
    assert parameters.target_prefix_ids == ()
    assert parameters.forced_bos_token_id is not None


@pytest.mark.parametrize("target_prefix", [" ", "\n", "\ud800", "\u200b"])
def test_a_prefix_without_content_is_refused_by_its_name(target_prefix: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        prepare("bert2bert", target_prefix=target_prefix)
    assert caught.value.field == "target_prefix"


def test_a_prefix_that_leaves_no_room_is_refused_by_its_name() -> None:
    text = TextProcessor(checkpoint_of("bart"), GenerationLimits(max_target_len=8))
    with pytest.raises(InvalidParameterError) as caught:
        text.prepare(TEXT, task="summarize", target_prefix=TEXT)
    assert caught.value.field == "target_prefix"


@pytest.mark.parametrize("name", TRANSLATORS)
def test_an_answer_with_a_prefix_is_that_of_generate_and_begins_with_it(name: str) -> None:
    model = serve(name)
    languages = model.checkpoint.languages
    prepared = model.text.prepare(
        TEXT,
        task="translate",
        source_lang=languages.sources[0] if languages.sources else None,
        target_lang=languages.targets[-1] if languages.targets else None,
        target_prefix=PREFIX,
        overrides=GenerationOverrides(max_new_tokens=6),
    )
    future = model.submit(prepared)
    while model.engine.step():
        pass
    output = future.result(timeout=0)
    reference = generate_alone(model.checkpoint.model, prepared.source_ids, prepared.parameters)
    assert_same(output, reference)
    prefix = model.text.detokenize(prepared.parameters.target_prefix_ids)
    assert model.text.detokenize(output.best.token_ids).startswith(prefix)
    assert output.generated_tokens <= 6


def test_answers_with_a_tokenizer_of_their_own_are_read_and_written_with_it() -> None:
    german = tokenizer_of("gpt2")
    checkpoint = replace(checkpoint_of("bert2bert"), target_tokenizer=german)
    text = TextProcessor(checkpoint)
    prepared = text.prepare(TEXT, task="translate", target_prefix=PREFIX)
    assert list(prepared.source_ids) == tokenizer_of("bert2bert")(TEXT).input_ids
    assert list(prepared.parameters.target_prefix_ids) == german(PREFIX).input_ids
    assert text.detokenize(prepared.parameters.target_prefix_ids) == PREFIX
