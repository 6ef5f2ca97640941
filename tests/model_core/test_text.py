"""Texts to sources and back, from any number of threads."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_core.checkpoint import Checkpoint, CheckpointOptions, load_checkpoint
from model_core.errors import InvalidParameterError, SourceTooLongError, UnknownLanguageError
from model_core.generation import GenerationLimits, GenerationOverrides
from model_core.text import Task, TextProcessor
from tests import tiny
from tests.model_core.texts import control_ids
from tests.tiny.multilingual import MULTILINGUAL

TEXT = "Where is the cold coffee?"
LONG_TEXT = " ".join(tiny.SENTENCES)
Load = Callable[[str], Checkpoint]

T5_LEAD = "translate English to German: "
T5_TASKS = {
    "summarization": {"prefix": "summarize: ", "num_beams": 3, "min_length": 4},
    "translation_en_to_de": {"prefix": T5_LEAD, "num_beams": 2},
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Tiny checkpoints, each loaded once."""
    loaded: dict[str, Checkpoint] = {}

    def get(name: str) -> Checkpoint:
        if name not in loaded:
            folder = tmp_path_factory.mktemp(name)
            if name in MULTILINGUAL:
                MULTILINGUAL[name](folder)
            else:
                tiny.build_tiny_checkpoint(name, folder)
            if name == "t5":
                _add_to_config(folder, task_specific_params=T5_TASKS)
            loaded[name] = load_checkpoint(str(folder), CheckpointOptions(device="cpu"))
        return loaded[name]

    return get


def _add_to_config(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize("name", [*tiny.LEAN_ARCHITECTURES, *tiny.FALLBACK_ARCHITECTURES])
def test_source_has_the_tokens_of_the_tokenizer_and_reads_back(name: str, load: Load) -> None:
    checkpoint = load(name)
    source = TextProcessor(checkpoint).prepare(TEXT, task="summarize")
    prefix = "summarize: " if name == "t5" else ""
    tokenizer: Any = checkpoint.tokenizer
    assert list(source.source_ids) == tokenizer(prefix + TEXT).input_ids
    assert source.source_tokens == len(source.source_ids)
    assert not source.truncated
    text = TextProcessor(checkpoint).detokenize(source.source_ids)
    assert text == tokenizer.decode(list(source.source_ids), skip_special_tokens=True)


def test_nllb_source_and_answer_begin_with_their_languages(load: Load) -> None:
    checkpoint = load("nllb")
    text = TextProcessor(checkpoint)
    token_id = checkpoint.tokenizer.convert_tokens_to_ids
    for source_lang, code in (("en", "eng_Latn"), ("fr", "fra_Latn"), ("en", "eng_Latn")):
        source = text.prepare(TEXT, task="translate", source_lang=source_lang, target_lang="de")
        assert source.source_ids[0] == token_id(code)
        assert source.parameters.forced_bos_token_id == token_id("deu_Latn")
        assert (source.source_lang, source.target_lang) == (code, "deu_Latn")


def test_m2m100_answer_begins_with_its_language_which_is_not_part_of_the_text(load: Load) -> None:
    text = TextProcessor(load("m2m100"))
    source = text.prepare(TEXT, task="translate", source_lang="fr", target_lang="de")
    german = source.parameters.forced_bos_token_id
    assert german is not None
    assert text.detokenize([german, *source.source_ids]) == TEXT


def test_mbart_answer_starts_from_the_target_language(load: Load) -> None:
    checkpoint = load("mbart")
    source = TextProcessor(checkpoint).prepare(
        TEXT, task="translate", source_lang="en", target_lang="ro"
    )
    romanian = checkpoint.tokenizer.convert_tokens_to_ids("ro_RO")
    assert source.parameters.decoder_start_token_id == romanian
    assert source.parameters.forced_bos_token_id is None


def test_request_goes_before_the_language(load: Load) -> None:
    source = TextProcessor(load("nllb")).prepare(
        TEXT,
        task="translate",
        source_lang="en",
        target_lang="de",
        overrides=GenerationOverrides(forced_bos_token_id=7),
    )
    assert source.parameters.forced_bos_token_id == 7


def test_t5_has_a_prefix_and_defaults_for_each_task(load: Load) -> None:
    checkpoint = load("t5")
    text = TextProcessor(checkpoint)
    tokenizer: Any = checkpoint.tokenizer
    summary = text.prepare(TEXT, task="summarize")
    assert list(summary.source_ids) == tokenizer("summarize: " + TEXT).input_ids
    assert (summary.parameters.num_beams, summary.parameters.min_length) == (3, 4)
    translation = text.prepare(TEXT, task="translate")
    expected = tokenizer("translate English to German: " + TEXT).input_ids
    assert list(translation.source_ids) == expected
    assert (translation.parameters.num_beams, translation.parameters.min_length) == (2, 0)
    assert (translation.source_lang, translation.target_lang) == ("en", "de")
    with pytest.raises(UnknownLanguageError):
        text.prepare(TEXT, task="translate", target_lang="fr")


def test_a_task_without_languages_forgets_those_of_the_caller_before(
    load: Load,
) -> None:
    processor = TextProcessor(load("m2m100"))
    before = processor.prepare(TEXT, task="summarize").source_ids
    processor.prepare(TEXT, task="translate", source_lang="fr", target_lang="de")
    assert processor.prepare(TEXT, task="summarize").source_ids == before


@pytest.mark.parametrize("name", ["bart", "bert2bert", "marian", "nllb", "m2m100"])
def test_long_source_is_refused_with_both_lengths_or_cut_at_its_end(name: str, load: Load) -> None:
    checkpoint = load(name)
    text = TextProcessor(checkpoint)
    languages: Any = {} if name.startswith("b") else {"source_lang": "en", "target_lang": "de"}
    tokenizer: Any = checkpoint.tokenizer
    whole = tokenizer(LONG_TEXT, verbose=False).input_ids
    with pytest.raises(SourceTooLongError) as caught:
        text.prepare(LONG_TEXT, task="translate", **languages)
    assert caught.value.source_tokens == len(whole)
    assert caught.value.max_source_tokens == tiny.MAX_POSITIONS
    cut = text.prepare(LONG_TEXT, task="translate", overflow="truncate", **languages)
    assert cut.truncated
    assert len(cut.source_ids) == tiny.MAX_POSITIONS
    assert cut.source_ids[-1] == whole[-1]  # the special token at the end is kept
    assert list(cut.source_ids[:-1]) == whole[: tiny.MAX_POSITIONS - 1]
    again = text.prepare(TEXT, task="translate", overflow="truncate", **languages)
    assert not again.truncated
    assert list(again.source_ids) == tokenizer(TEXT).input_ids


def test_source_without_a_bound_of_positions_has_the_operators(load: Load) -> None:
    text = TextProcessor(load("t5"), GenerationLimits(max_source_len=16))
    with pytest.raises(SourceTooLongError, match="takes 16"):
        text.prepare(TEXT, task="summarize")
    assert TextProcessor(load("t5")).max_source_len == GenerationLimits().max_source_len
    assert TextProcessor(load("bart")).max_source_len == tiny.MAX_POSITIONS


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\ud800"])
def test_text_without_content_is_refused(text: str, load: Load) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        TextProcessor(load("bart")).prepare(text, task="summarize")
    assert caught.value.field == "text"


def test_invalid_parameter_is_refused_before_it_reaches_an_engine(load: Load) -> None:
    overrides = GenerationOverrides(num_beams=4, num_return_sequences=5)
    with pytest.raises(InvalidParameterError, match="num_return_sequences"):
        TextProcessor(load("bart")).prepare(TEXT, task="summarize", overrides=overrides)


@settings(max_examples=100, deadline=None)
@given(text=st.text(min_size=1, max_size=40))
def test_any_text_becomes_token_ids_that_the_model_knows_or_is_refused(
    load: Load, text: str
) -> None:
    for name in ("bart", "bert2bert", "marian", "nllb"):
        checkpoint = load(name)
        languages: Any = {"source_lang": "en", "target_lang": "de"} if name == "nllb" else {}
        try:
            source = TextProcessor(checkpoint).prepare(
                text, task="translate", overflow="truncate", **languages
            )
        except InvalidParameterError:
            tokenizer: Any = checkpoint.tokenizer
            assert not (text.strip() and tokenizer(text, add_special_tokens=False).input_ids)
            continue
        assert 0 < len(source.source_ids) <= tiny.MAX_POSITIONS
        assert max(source.source_ids) < checkpoint.source_vocab_size


ENGLISH_TO_GERMAN = {"source_lang": "en", "target_lang": "de"}
LANGUAGES: dict[str, Any] = {
    **dict.fromkeys(("nllb", "mbart", "m2m100", "mbart50", "t5"), ENGLISH_TO_GERMAN),
    "marian-multi": {"target_lang": "fra"},
    "madlad": {"target_lang": "de"},
}


def lead_of(name: str) -> str:
    """What the library's caller writes before the text."""
    leads = {"marian-multi": ">>fra<< ", "t5": T5_LEAD, "madlad": "<2de> "}
    return leads.get(name, "")


@pytest.mark.parametrize("name", [*LANGUAGES, "bart", "bert2bert", "marian", "byt5", "fsmt"])
def test_truncated_says_exactly_whether_the_text_was_cut(name: str, load: Load) -> None:
    checkpoint = load(name)
    tokenizer: Any = checkpoint.tokenizer
    languages = LANGUAGES.get(name, {})
    source = TextProcessor(checkpoint).prepare(TEXT, task="translate", **languages)
    for most in range(source.source_tokens - 5, source.source_tokens + 2):
        text = TextProcessor(checkpoint, GenerationLimits(max_source_len=most))
        cut = text.prepare(TEXT, task="translate", overflow="truncate", **languages)
        expected = tokenizer(lead_of(name) + TEXT, truncation=True, max_length=most).input_ids
        assert list(cut.source_ids) == expected
        assert cut.source_tokens == min(most, source.source_tokens)
        assert cut.truncated == (most < source.source_tokens)


@pytest.mark.parametrize("name", ["marian-multi", "t5", "madlad", "nllb", "bart"])
def test_what_stands_around_a_text_is_never_cut(name: str, load: Load) -> None:
    languages = LANGUAGES.get(name, {})
    checkpoint = load(name)
    around = len(checkpoint.tokenizer(lead_of(name).rstrip()).input_ids)
    text = TextProcessor(checkpoint, GenerationLimits(max_source_len=around))
    with pytest.raises(SourceTooLongError):
        text.prepare(TEXT, task="translate", overflow="truncate", **languages)
    text = TextProcessor(checkpoint, GenerationLimits(max_source_len=around + 1))
    cut = text.prepare(TEXT, task="translate", overflow="truncate", **languages)
    assert (cut.truncated, cut.source_tokens) == (True, around + 1)


@pytest.mark.parametrize(
    ("name", "text"), [("t5", "</s>"), ("bert2bert", "[SEP][CLS]"), ("bart", "<s> <pad>")]
)
def test_a_text_of_special_tokens_only_is_summarized_as_text(
    name: str, text: str, load: Load
) -> None:
    processor = TextProcessor(load(name))
    special = control_ids(load(name).tokenizer)

    def controls(text: str) -> list[int]:
        source = processor.prepare(text, task="summarize")
        return [token_id for token_id in source.source_ids if token_id in special]

    assert controls(text) == controls("tea")


def test_a_checkpoint_may_take_sources_without_special_tokens(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("bert2bert", tmp_path)
    options = CheckpointOptions(device="cpu", add_special_tokens=False)
    checkpoint = load_checkpoint(str(folder), options)
    source = TextProcessor(checkpoint).prepare(TEXT, task="translate")
    tokenizer: Any = checkpoint.tokenizer
    assert list(source.source_ids) == tokenizer(TEXT, add_special_tokens=False).input_ids
    text = TextProcessor(checkpoint, GenerationLimits(max_source_len=4))
    cut = text.prepare(TEXT, task="translate", overflow="truncate")
    assert cut.source_ids == source.source_ids[:4]


@pytest.mark.parametrize("name", ["nllb", "mbart", "m2m100"])
def test_threads_with_different_languages_do_not_mix_them(name: str, load: Load) -> None:
    text = TextProcessor(load(name))
    sources = ["en", "de", "fr", "ro"]

    def prepare(index: int) -> tuple[int, ...]:
        lang = sources[index % len(sources)]
        overflow: Any = "truncate" if index % 3 == 0 else "error"
        body = LONG_TEXT if overflow == "truncate" else TEXT
        prefix = None if index % 2 else f"{lang} </s>"  # read literally, and as an answer
        source = text.prepare(
            f"{body} </s>" if index % 4 else body,
            task="translate",
            source_lang=lang,
            target_lang="zh",
            overflow=overflow,
            target_prefix=prefix,
        )
        return (*source.source_ids, *source.parameters.target_prefix_ids)

    alone = [prepare(index) for index in range(12)]
    assert len(set(alone)) > len(sources)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(prepare, list(range(12)) * 20))
    assert together == alone * 20


@pytest.mark.parametrize("name", ["t5", "mbart"])
@pytest.mark.parametrize(
    "named", [{}, {"max_length": 9}, {"max_new_tokens": 9}, {"max_length": 7, "max_new_tokens": 9}]
)
def test_no_request_is_bounded_to_fewer_steps_than_is_said_before(
    name: str, named: dict[str, Any], load: Load
) -> None:
    text = TextProcessor(load(name))
    least = text.least_max_steps(named.get("max_length"), named.get("max_new_tokens"))
    tasks: list[tuple[Task, str | None, str | None]] = [
        ("summarize", None, None),
        ("translate", "en", "de"),
    ]
    for task, source_lang, target_lang in tasks:
        source = text.prepare(
            TEXT,
            task=task,
            source_lang=source_lang,
            target_lang=target_lang,
            overrides=GenerationOverrides(**named),
        )
        assert 1 < least <= source.parameters.max_length - 1
