"""Which languages a checkpoint knows, and which of them a code means."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from model_core.errors import CheckpointError, UnknownLanguageError
from model_core.language_tags import match_language
from model_core.languages import LanguagePair, Languages, read_languages
from tests import tiny

NLLB = (
    "arb_Arab",
    "arz_Arab",
    "als_Latn",
    "deu_Latn",
    "eng_Latn",
    "khk_Cyrl",
    "ltz_Latn",
    "lvs_Latn",
    "nno_Latn",
    "nob_Latn",
    "pes_Arab",
    "por_Latn",
    "srp_Cyrl",
    "hrv_Latn",
    "zho_Hans",
    "zho_Hant",
    "zsm_Latn",
    "ind_Latn",
)
MBART = ("de_DE", "en_XX", "pt_XX", "ro_RO", "zh_CN")


@pytest.mark.parametrize(
    ("given", "known", "code"),
    [
        ("deu_Latn", NLLB, "deu_Latn"),
        ("DEU_latn", NLLB, "deu_Latn"),
        ("de", NLLB, "deu_Latn"),
        ("ger", NLLB, "deu_Latn"),
        ("de-AT", NLLB, "deu_Latn"),
        ("en-GB", NLLB, "eng_Latn"),
        ("zh", NLLB, "zho_Hans"),
        ("zh-TW", NLLB, "zho_Hant"),
        ("zh-Hant", NLLB, "zho_Hant"),
        ("no", NLLB, "nob_Latn"),
        ("nn", NLLB, "nno_Latn"),
        ("ar", NLLB, "arb_Arab"),
        ("fa", NLLB, "pes_Arab"),
        ("lv", NLLB, "lvs_Latn"),
        ("sq", NLLB, "als_Latn"),
        ("mn", NLLB, "khk_Cyrl"),
        ("ms", NLLB, "zsm_Latn"),
        ("lb", NLLB, "ltz_Latn"),
        ("de", MBART, "de_DE"),
        ("en", MBART, "en_XX"),
        ("pt-BR", MBART, "pt_XX"),
        ("deu_Latn", MBART, "de_DE"),
        ("__de__", ("de", "en"), "de"),
        ("de_DE", ("de", "en"), "de"),
        ("de", ("deu", "nld"), "deu"),
        ("ROMANCE", ("ROMANCE",), "ROMANCE"),
    ],
)
def test_code_is_understood_where_its_meaning_is_clear(
    given: str, known: tuple[str, ...], code: str
) -> None:
    assert match_language(given, known) == code


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("fr", NLLB),
        ("lb", ("deu_Latn",)),
        ("hr", ("srp_Cyrl",)),
        ("zh-TW", ("zho_Hans",)),
        ("uk", ("rus_Cyrl",)),
        ("German", NLLB),
        ("xx", NLLB),
        ("", NLLB),
        ("-", NLLB),
        ("e" * 64, NLLB),
    ],
)
def test_code_of_another_language_or_none_is_not_stretched(
    given: str, known: tuple[str, ...]
) -> None:
    assert match_language(given, known) is None


def tokenizer_of(name: str, folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny.build_tiny_checkpoint(name, folder))


def read(name: str, folder: Path, **config: Any) -> Languages:
    return read_languages(config, tokenizer_of(name, folder), vocab_size=tiny.M2M100_VOCAB)


@pytest.mark.parametrize(
    ("name", "num", "code", "token"),
    [
        ("mbart", 25, "de_DE", "de_DE"),
        ("nllb", 6, "deu_Latn", "deu_Latn"),
        ("m2m100", 100, "de", "__de__"),
    ],
)
def test_multilingual_tokenizer_knows_every_pair(
    name: str, num: int, code: str, token: str, tmp_path: Path
) -> None:
    languages = read(name, tmp_path)
    assert len(languages.sources) == len(languages.targets) == num
    pair = languages.choose("en", "de")
    assert pair.target_lang == code
    assert pair.target_token == token
    assert pair.tokenizer_lang == pair.source_lang != pair.target_lang


def test_language_tokens_that_the_model_lacks_are_not_offered(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("m2m100", tmp_path)
    assert len(read_languages({}, tokenizer, vocab_size=100).sources) < 10


def test_left_out_language_is_an_error_where_there_is_a_choice(tmp_path: Path) -> None:
    languages = read("nllb", tmp_path)
    with pytest.raises(UnknownLanguageError) as caught:
        languages.choose(None, "de")
    assert caught.value.field == "source_lang"
    assert caught.value.value is None
    with pytest.raises(UnknownLanguageError) as caught:
        languages.choose("en", None)
    assert caught.value.field == "target_lang"
    assert caught.value.known == tuple(sorted(tiny.NLLB_LANGUAGES))


def test_target_that_the_generation_defaults_force_may_be_left_out(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("mbart", tmp_path)
    languages = read_languages(
        {}, tokenizer, vocab_size=tiny.VOCAB, default_target_ids=(None, tiny.MBART_GERMAN)
    )
    assert languages.choose("en", None).target_lang == "de_DE"
    assert languages.choose("en", "ro").target_lang == "ro_RO"


def test_unknown_language_lists_the_known_ones(tmp_path: Path) -> None:
    languages = read("marian", tmp_path)
    with pytest.raises(UnknownLanguageError, match="'fr': expected one of de"):
        languages.choose("en", "fr")
    assert not languages.accepts("en", "fr")
    assert not languages.accepts("de", "en")
    assert languages.accepts("en-US", "deu")


def test_bilingual_marian_needs_no_languages(tmp_path: Path) -> None:
    languages = read("marian", tmp_path)
    assert languages.choose(None, None) == LanguagePair("en", "de")


def test_marian_with_target_tokens_puts_one_before_the_source(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("marian", tmp_path)
    tokenizer.source_lang, tokenizer.target_lang = "gem", "roa"
    tokenizer.supported_language_codes = [">>fra<<", ">>por<<"]
    languages = read_languages({}, tokenizer, vocab_size=tiny.VOCAB)
    assert languages.sources == ()
    assert languages.targets == ("fra", "por")
    assert languages.choose("nl", "fr").prefix == ">>fra<< "
    assert not languages.accepts("nl", "es")


T5_TASKS = {
    "summarization": {"prefix": "summarize: "},
    "translation_en_to_de": {"prefix": "translate English to German: "},
    "translation_en_to_fr": {"prefix": "translate English to French: "},
}


def test_t5_knows_the_pairs_that_it_has_prefixes_for(tmp_path: Path) -> None:
    languages = read("t5", tmp_path, task_specific_params=T5_TASKS)
    assert languages.sources == ("en",)
    assert languages.targets == ("de", "fr")
    pair = languages.choose(None, "fr")
    assert pair.prefix == "translate English to French: "
    assert pair.task_name == "translation_en_to_fr"
    assert not languages.accepts("de", "en")


def test_pair_stated_in_the_config_holds(tmp_path: Path) -> None:
    stated = {"source_lang": "en", "target_lang": "de"}
    languages = read("bert2bert", tmp_path, tandem=stated)
    assert languages.choose(None, None) == LanguagePair("en", "de")
    assert languages.accepts("en", "de_DE")
    assert not languages.accepts("de", "en")


@pytest.mark.parametrize("entry", ["en-de", {"source_lang": "en"}, {}, {"source_lang": 1}])
def test_malformed_statement_is_refused(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected an object with source_lang"):
        read("bert2bert", tmp_path, tandem=entry)


def test_checkpoint_that_says_nothing_takes_any_language_or_none(tmp_path: Path) -> None:
    languages = read("bert2bert", tmp_path)
    assert (languages.sources, languages.targets) == ((), ())
    assert languages.choose(None, None) == LanguagePair()
    assert languages.choose("en", "de") == LanguagePair("en", "de")
