"""Which languages a checkpoint knows, and how it is told which one to write."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from model_core.checkpoint import CheckpointOptions, load_checkpoint
from model_core.errors import CheckpointError, UnknownLanguageError
from model_core.language_files import read_languages
from model_core.languages import LanguagePair, Languages
from model_core.text import TextProcessor
from tests import tiny
from tests.model_core.texts import checkpoint_of, load_tokenizer
from tests.tiny.multilingual import MULTILINGUAL, change_json


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
    MULTILINGUAL["marian-multi"](tmp_path)
    languages = read_languages({}, load_tokenizer(tmp_path), vocab_size=tiny.VOCAB)
    assert languages.sources == ()
    assert languages.targets == ("deu", "fra", "por")
    assert languages.choose("nl", "fr").prefix == ">>fra<< "
    assert languages.choose(None, ">>fra<<") == languages.choose(None, "fr")
    assert not languages.accepts("nl", "es")
    assert languages.pairs == (((), ("deu", "fra", "por")),)


def test_t5_with_target_tokens_puts_one_before_the_source(tmp_path: Path) -> None:
    MULTILINGUAL["madlad"](tmp_path)
    languages = read_languages(
        {"model_type": "t5"}, load_tokenizer(tmp_path), vocab_size=tiny.VOCAB
    )
    assert (languages.sources, languages.targets) == ((), ("de", "fr"))
    assert languages.choose("en", "deu_Latn").prefix == "<2de> "
    assert not languages.accepts("en", "es")


@pytest.mark.parametrize(
    ("name", "pair", "expected"),
    [
        ("mbart50", ("de-DE", "en-US"), ("de_DE", "en_XX", "en_XX")),
        ("seamless-m4t", ("de", "eng"), ("deu", "eng", "__eng__")),
        ("plbart", ("python", "en"), ("python", "en_XX", "__en_XX__")),
        ("m2m100", ("de", "__en__"), ("de", "en", "__en__")),
    ],
)
def test_a_pair_is_named_by_the_checkpoints_codes_and_tokens(
    name: str, pair: tuple[str, str], expected: tuple[str, str, str]
) -> None:
    languages = checkpoint_of(name).languages
    found = languages.choose(*pair)
    assert (found.tokenizer_lang, found.target_lang, found.target_token) == expected
    assert languages.pairs == ((languages.sources, languages.targets),)


def test_fsmt_has_the_pair_of_its_config(tmp_path: Path) -> None:
    languages = checkpoint_of("fsmt").languages
    assert languages.choose(None, None) == LanguagePair("en", "de")
    assert not languages.accepts("de", "en")


@pytest.mark.parametrize(("name", "starts"), [("mbart", True), ("plbart", True), ("nllb", False)])
def test_the_target_language_starts_the_answer_or_is_forced_behind_the_start(
    name: str, starts: bool
) -> None:
    checkpoint = checkpoint_of(name)
    code = checkpoint.languages.targets[-1]
    source = TextProcessor(checkpoint).prepare(
        "tea", task="translate", source_lang=checkpoint.languages.sources[0], target_lang=code
    )
    token_id = checkpoint.tokenizer.convert_tokens_to_ids(checkpoint.languages.target_tokens[code])
    assert (source.parameters.decoder_start_token_id == token_id) == starts
    assert (source.parameters.forced_bos_token_id == token_id) != starts


def test_an_mbart_whose_defaults_force_a_language_has_the_asked_one_forced(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("mbart", tmp_path)
    german = tiny.MBART_GERMAN
    change_json(
        folder / "generation_config.json", decoder_start_token_id=2, forced_bos_token_id=german
    )
    checkpoint = load_checkpoint(str(folder), CheckpointOptions(device="cpu"))
    text = TextProcessor(checkpoint)
    source = text.prepare("tea", task="translate", source_lang="en", target_lang="ro")
    romanian = checkpoint.tokenizer.convert_tokens_to_ids("ro_RO")
    assert source.parameters.forced_bos_token_id == romanian
    assert source.parameters.decoder_start_token_id == 2
    default = text.prepare("tea", task="translate", source_lang="en")
    assert (default.target_lang, default.parameters.forced_bos_token_id) == ("de_DE", german)


@pytest.mark.parametrize("name", ["t5-gated", "mt5", "byt5"])
def test_a_t5_without_prefixes_takes_any_language_or_none(name: str) -> None:
    checkpoint = checkpoint_of(name)
    assert checkpoint.languages.pairs == (((), ()),)
    text = TextProcessor(checkpoint)
    plain = text.prepare("translate tea", task="translate").source_ids
    assert text.prepare("translate tea", task="translate", target_lang="de").source_ids == plain


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
    assert languages.pairs == ((("en",), ("de", "fr")),)
    assert not languages.accepts("de", "en")


def test_pair_stated_in_the_config_holds(tmp_path: Path) -> None:
    stated = {"source_lang": "en", "target_lang": "de"}
    languages = read("bert2bert", tmp_path, tandem=stated)
    assert languages.choose(None, None) == LanguagePair("en", "de")
    assert languages.accepts("en", "de_DE")
    assert not languages.accepts("de", "en")


@pytest.mark.parametrize(
    ("name", "prefix", "token"),
    [("nllb", "", "deu_Latn"), ("t5", "translate English to German: ", None)],
)
def test_a_stated_pair_of_many_is_the_only_one_and_asked_for_all_the_same(
    name: str, prefix: str, token: str | None, tmp_path: Path
) -> None:
    stated = {"source_lang": "en", "target_lang": "de"}
    languages = read(name, tmp_path, tandem=stated, task_specific_params=T5_TASKS)
    pair = languages.choose(None, None)
    assert (pair.prefix, pair.target_token) == (prefix, token)
    assert languages.pairs == (((pair.source_lang,), (pair.target_lang,)),)
    assert not languages.accepts("en", "fr")
    with pytest.raises(CheckpointError, match="a stated pair that the checkpoint translates"):
        read(name, tmp_path, tandem={**stated, "target_lang": "cs"}, task_specific_params=T5_TASKS)


def test_a_stated_pair_of_two_models_needs_no_token_of_a_borrowed_tokenizer(tmp_path: Path) -> None:
    stated = {"source_lang": "en", "target_lang": "de"}
    languages = read("mbart", tmp_path, tandem=stated, model_type="encoder-decoder")
    assert languages.choose(None, None) == LanguagePair("en", "de")


@pytest.mark.parametrize("entry", ["en-de", {"source_lang": "en"}, {}, {"source_lang": 1}])
def test_malformed_statement_is_refused(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected an object with source_lang"):
        read("bert2bert", tmp_path, tandem=entry)


def test_checkpoint_that_says_nothing_takes_any_language_or_none(tmp_path: Path) -> None:
    languages = read("bert2bert", tmp_path)
    assert (languages.sources, languages.targets) == ((), ())
    assert languages.choose(None, None) == LanguagePair()
    assert languages.choose("en", "de") == LanguagePair("en", "de")
