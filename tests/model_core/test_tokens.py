"""What a user types is text, whatever it looks like; all else is the library's tokens."""

import sys
from pathlib import Path
from string import ascii_letters
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import BertGenerationTokenizer, BertTokenizer, NllbTokenizer, ProphetNetTokenizer

from model_core.errors import InvalidParameterError
from model_core.tokens import EncodedText, TextTokenizer
from tests import tiny
from tests.model_core.texts import TOKENIZER_KINDS, control_ids, load_tokenizer, tokenizer_of
from tests.tiny.tokenizers import TOKENIZERS

ORDINARY = (
    *tiny.SENTENCES[:3],
    " Tea ",
    "a\nb\t c  d",
    "I don't know: 3 < 4, a_b [x] <y>",
    "a\x00b\x07",
    "Tee 😀 und 茶 שלום مرحبا",
    "e\u0301 \u200d\ufeff x",
)


def ids_of(encoded: EncodedText) -> list[int]:
    return list(encoded.ids(sys.maxsize))


@pytest.mark.parametrize("name", TOKENIZER_KINDS)
@pytest.mark.parametrize("text", ORDINARY, ids=ascii)
def test_ordinary_text_has_the_tokens_of_the_library(name: str, text: str) -> None:
    tokenizer = tokenizer_of(name)
    encoded = TextTokenizer(tokenizer).encode(text)
    assert ids_of(encoded) == tokenizer(text, verbose=False).input_ids
    alone = TextTokenizer(tokenizer, add_special_tokens=False).encode(text)
    assert (alone.head, alone.tail) == ((), ())
    assert ids_of(alone) == tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", TOKENIZER_KINDS)
def test_special_tokens_that_a_user_types_are_text(name: str) -> None:
    tokenizer = tokenizer_of(name)
    reader = TextTokenizer(tokenizer)
    control, known = control_ids(tokenizer), _known_letters(tokenizer)
    for token in map(str, tokenizer.all_special_tokens):
        for text in (token, f"a {token} b", f"a{token}b", 3 * token):
            body = reader.encode(text).body
            assert control.isdisjoint(body), text
            found = tokenizer.decode([each for each in body if each != tokenizer.unk_token_id])
            if name != "fsmt":  # Moses writes `<` as `&lt;`
                letters = [letter.lower() for letter in text if letter in known]
                assert [each.lower() for each in found if each.isalpha()] == letters, text


def _known_letters(tokenizer: Any) -> set[str]:
    def is_known(letter: str) -> bool:
        body = tokenizer(letter, add_special_tokens=False).input_ids
        return letter.lower() in tokenizer.decode(body).replace(tokenizer.unk_token, "").lower()

    return set(filter(is_known, ascii_letters))


@pytest.mark.parametrize("name", TOKENIZER_KINDS)
def test_a_special_token_changes_nothing_around_it(name: str) -> None:
    """The text is read as if it had the token's name in other characters."""
    tokenizer = tokenizer_of(name)
    reader = TextTokenizer(tokenizer)
    before = reader.encode("The old bridge,").body
    token = tokenizer.eos_token or tokenizer.sep_token
    assert reader.encode(f"The old bridge, {token} was").body[: len(before)] == before
    assert reader.encode("The old bridge,").body == before


@pytest.mark.parametrize("name", ["bert2bert", "t5", "nllb", "marian", "bert-generation"])
def test_words_that_somebody_added_stay_words(name: str, tmp_path: Path) -> None:
    tokenizer: Any = TOKENIZERS[name](tmp_path)
    tokenizer.add_tokens(["Teehaus"])
    word = tokenizer.convert_tokens_to_ids("Teehaus")
    reader = TextTokenizer(tokenizer)
    end = tokenizer.eos_token or tokenizer.sep_token
    for text in ("Das Teehaus", f"Das Teehaus {end} Teehaus"):
        body = reader.encode(text).body
        assert body.count(word) == text.count("Teehaus")
        assert control_ids(tokenizer).isdisjoint(body)


def test_a_vocabulary_whose_merges_make_a_special_token_is_read_without_it() -> None:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<", "/", "s", ">", "a", "▁", "</", "s>", "▁a"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges: list[Any] = [("<", "/"), ("s", ">"), ("</", "s>"), ("▁", "a")]
    tokenizer = NllbTokenizer(
        vocab=vocab,
        merges=merges,
        extra_special_tokens=["eng_Latn"],
    )
    assert 2 in tokenizer("a</s>", add_special_tokens=False, split_special_tokens=True).input_ids
    assert TextTokenizer(tokenizer).encode("a</s>").body == (12, 10, 11)


def test_a_tokenizer_that_never_splits_special_tokens_reads_them_in_parts(tmp_path: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "[", "]", "sep", "tea", "un", "##k", "mask"]
    path = tmp_path / "prophetnet.tokenizer"
    path.write_text("\n".join(words))
    tokenizer = ProphetNetTokenizer(str(path))
    split = tokenizer("tea [SEP]", add_special_tokens=False, split_special_tokens=True)
    assert words.index("[SEP]") in split.input_ids
    body = TextTokenizer(tokenizer).encode("Tea [SEP] tea [MASK][UNK]").body
    read = " ".join(words[token_id] for token_id in body)
    assert read == "tea [ sep ] tea [ mask ] [ un ##k ]"
    assert TextTokenizer(tokenizer).encode("coffee").body == (1,)  # unknown, and nobody typed that


def test_symbols_that_sentencepiece_itself_keeps_whole_are_read_in_parts(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*tiny.SENTENCES, "<cut>"] * 2),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=80,
        user_defined_symbols=["<cut>"],
        minloglevel=2,
    )
    tokenizer: Any = BertGenerationTokenizer(
        str(tmp_path / "spiece.model"), pad_token="<s>", sep_token="<cut>"
    )
    cut = tokenizer.convert_tokens_to_ids("<cut>")
    assert cut in tokenizer("tea <cut>", split_special_tokens=True).input_ids
    body = TextTokenizer(tokenizer).encode("tea <cut> tea").body
    assert cut not in body
    assert body.count(tokenizer.convert_tokens_to_ids("u")) == 1


def test_a_special_token_that_cannot_be_read_as_text_is_refused(tmp_path: Path) -> None:
    tokenizer: Any = TOKENIZERS["bert-generation"](tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("T", special=True)]})
    with pytest.raises(InvalidParameterError, match="cannot read it as text") as caught:
        TextTokenizer(tokenizer).encode("Tea")
    assert (caught.value.field, caught.value.value) == ("text", "T")


@pytest.mark.parametrize("text", [">>fra<< Tea", ">>xyz<< Tea", ">> a << b", ">>fra<<"])
def test_marian_takes_no_language_off_a_text(text: str) -> None:
    tokenizer = tokenizer_of("marian")
    body = TextTokenizer(tokenizer).encode(text).body
    assert list(body) == tokenizer(" " + text, add_special_tokens=False).input_ids


def test_a_text_with_a_lead_is_read_as_one_and_the_lead_stays_control() -> None:
    tokenizer = tokenizer_of("t5")
    reader = TextTokenizer(tokenizer)
    lead = "summarize: "
    encoded = reader.encode(tiny.SENTENCES[0], lead=lead)
    assert ids_of(encoded) == tokenizer(lead + tiny.SENTENCES[0]).input_ids
    control = TextTokenizer(tokenizer, markers=["summ"]).encode("a </s>", lead="</s> ")
    ends = [tokenizer.eos_token_id]
    assert [each for each in control.body if each in ends] == ends  # the lead's, not the text's


@pytest.mark.parametrize("name", TOKENIZER_KINDS)
def test_a_cut_takes_the_end_of_the_text_and_nothing_else(name: str) -> None:
    tokenizer = tokenizer_of(name)
    encoded = TextTokenizer(tokenizer).encode(" ".join(tiny.SENTENCES))
    for most in (8, len(encoded) - 1, len(encoded)):
        cut = tokenizer(" ".join(tiny.SENTENCES), truncation=True, max_length=most).input_ids
        assert list(encoded.ids(most)) == cut
    assert encoded.ids(len(encoded.head) + len(encoded.tail)) == ()


def test_a_cut_keeps_the_lead() -> None:
    reader = TextTokenizer(tokenizer_of("t5"))
    encoded = reader.encode(tiny.SENTENCES[0], lead="summarize: ")
    assert encoded.ids(encoded.lead_tokens + len(encoded.tail)) == ()
    shortest = encoded.ids(encoded.lead_tokens + len(encoded.tail) + 1)
    assert shortest == (*encoded.body[: encoded.lead_tokens + 1], *encoded.tail)


@pytest.mark.parametrize("text", ["\x00", "\u200b\u200d", "\ufffd"])
@pytest.mark.parametrize("lead", ["", "summarize: "])
def test_a_text_without_any_token_is_refused(text: str, lead: str) -> None:
    reader = TextTokenizer(tokenizer_of("bert2bert"))
    with pytest.raises(InvalidParameterError, match="at least one token") as caught:
        reader.encode(text, lead=lead)
    assert caught.value.field == "text"


UNITS = ("a ", "[SEP] ", "e\u0301 ", "tea", "</s>", "😀", "<")
LONG = [
    (name, unit)
    for name in TOKENIZER_KINDS
    for unit in UNITS
    # These two refuse a word without end.
    if unit.endswith(" ") or name not in ("fsmt", "blenderbot-small")
]


@pytest.mark.parametrize(("name", "unit"), LONG, ids=ascii)
def test_a_text_of_100_kb_is_read_to_its_end(name: str, unit: str) -> None:
    text = unit * (100_000 // len(unit.encode())) + " tea"
    reader = TextTokenizer(tokenizer_of(name))
    assert reader.encode(text).body[-1:] == reader.encode("a tea").body[-1:]


def test_word_that_would_take_minutes_is_refused() -> None:
    reader = TextTokenizer(tokenizer_of("fsmt"))
    assert len(reader.encode("a" * 1000)) > 1000
    with pytest.raises(InvalidParameterError, match="words of at most 1000 characters"):
        reader.encode("tea " + "a" * 1001)


def test_a_tokenizer_does_not_remember_words_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_core.tokens._MAX_CACHED_WORDS", 10)
    reader = TextTokenizer(tokenizer_of("fsmt"))
    for number in range(30):
        reader.encode("a" * (number + 1))
    assert len(reader._tokenizer.cache) <= 11


SPECIAL = st.sampled_from(
    ["</s>", "<s>", "[SEP]", "<unk>", "[UNK]", "eng_Latn", ">>fra<<", "<pad>"]
)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.one_of(SPECIAL, st.text(max_size=8)), min_size=1, max_size=6))
def test_no_text_becomes_control_and_ordinary_text_stays_what_it_is(parts: list[str]) -> None:
    text = "".join(parts)
    for name in ("bert2bert", "mbart", "marian", "nllb", "t5", "byt5"):
        tokenizer = tokenizer_of(name)
        plain = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        try:
            body = TOKENIZED[name].encode(text).body
        except InvalidParameterError:
            assert not plain
            continue
        assert control_ids(tokenizer).isdisjoint(body)
        is_special = any(str(token) in text for token in tokenizer.all_special_tokens)
        if not is_special and not text.startswith(">>"):
            assert list(body) == plain


TOKENIZED = {
    name: TextTokenizer(tokenizer_of(name))
    for name in ("bert2bert", "mbart", "marian", "nllb", "t5", "byt5")
}


def test_the_copy_of_a_tokenizer_leaves_the_given_one_alone() -> None:
    tokenizer: Any = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4})
    before = tokenizer.backend_tokenizer.to_str()
    TextTokenizer(tokenizer).encode("a [SEP]")
    assert tokenizer.backend_tokenizer.to_str() == before


def test_tokenizers_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    TOKENIZERS["t5"](tmp_path).save_pretrained(tmp_path)
    assert type(load_tokenizer(tmp_path)) is type(tokenizer_of("t5"))
