"""What the files of a checkpoint say of its languages.

A checkpoint says so in one of these places; the first that says anything holds:

1. `config.json`: `"tandem": {"source_lang": "en", "target_lang": "de"}`, a key of our own for
   checkpoints without any other place, `EncoderDecoderModel` above all; of a checkpoint that says
   more, it serves only this pair;
2. FSMT's `langs`, a pair;
3. a tokenizer with a source language as state (mBART, mBART-50, M2M100, NLLB, PLBart, SeamlessM4T):
   its language codes;
4. a Marian tokenizer: its `source_lang` and `target_lang`, or its `>>xx<<` target tokens;
5. T5's `task_specific_params`: a prefix for each `translation_xx_to_yy`;
6. a T5 vocabulary with `<2xx>` target tokens (MADLAD-400).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import langcodes
from transformers import MBartTokenizer, PLBartTokenizer, PreTrainedTokenizerBase

from model_core.errors import CheckpointError, UnknownLanguageError
from model_core.language_tags import bcp47_tag
from model_core.languages import Languages

_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
_MARKED_CODE = re.compile(r"__([A-Za-z]+(?:_[A-Za-z]+)?)__")
_T5_TYPES = ("t5", "mt5", "umt5")
_TARGET_PIECE = re.compile(r"<2([a-z]{2,3}(?:_[A-Z][A-Za-z]+)?)>")
_TARGET_MARKER = re.compile(r">>(.+)<<")
_TRANSLATION_TASK = re.compile(r"translation_([^_]+)_to_([^_]+)")
# Families and "many": Marian checkpoints that take several source languages name these.
_COLLECTIVE = re.compile(
    r"mul|ine|inc|roa|itc|gem|gmw|gmq|sla|zle|zlw|zls|cel|fiu|urj|trk|sem|afa|bat|bnt|map|poz|pqw"
    r"|pqe|dra|alv|nic|cpf|cpp|cus|aav|sit|euq|art|iir|ira|tut|sal|ssa|tai|phi|cau|ccs|sgn|wen"
)


def read_languages(
    config: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    vocab_size: int,
    default_target_ids: Iterable[int | None] = (),
) -> Languages:
    """What a checkpoint says of its languages; empty where it says nothing.

    Args:
        config: `config.json`, raw.
        tokenizer: The checkpoint's tokenizer.
        vocab_size: Language tokens beyond it are not the model's.
        default_target_ids: First tokens of an answer by the generation defaults.

    Raises:
        CheckpointError: The `tandem` entry of the configuration is malformed, or names a pair that
            a checkpoint of many languages lacks.
    """
    found = _of_files(config, tokenizer, vocab_size, set(default_target_ids))
    stated = _stated(config)
    if stated is None:
        return found
    # A pair of two models was trained without the language tokens of the tokenizer that it borrows.
    is_pair = config.get("model_type") == "encoder-decoder"
    if is_pair or not (found.target_tokens or found.target_markers or found.pair_prefixes):
        return Languages(sources=(stated[0],), targets=(stated[1],))
    return _restricted(found, *stated)


def _of_files(
    config: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    default_target_ids: set[int | None],
) -> Languages:
    pair = _fsmt_pair(config)
    if pair is not None:
        return Languages(sources=(pair[0],), targets=(pair[1],))
    if hasattr(tokenizer, "src_lang"):
        found = _of_tokenizer(tokenizer, vocab_size, default_target_ids)
        if found.sources:
            return found
    if hasattr(tokenizer, "supported_language_codes"):
        return _of_marian(tokenizer)
    prefixes = _of_prefixes(config.get("task_specific_params") or {})
    return prefixes if prefixes.targets else _of_target_tokens(config, tokenizer)


def _stated(config: Mapping[str, Any]) -> tuple[str, str] | None:
    entry = config.get("tandem")
    if entry is None:
        return None
    pair: tuple[Any, Any] = (None, None)
    if isinstance(entry, dict):
        pair = (entry.get("source_lang"), entry.get("target_lang"))
    source, target = pair
    if not (isinstance(source, str) and source and isinstance(target, str) and target):
        raise CheckpointError(
            f'config.json says "tandem": {entry!r}, '
            "expected an object with source_lang and target_lang"
        )
    return source, target


def _restricted(languages: Languages, source_lang: str, target_lang: str) -> Languages:
    """One pair of a checkpoint of many languages, asked for as the checkpoint wants it."""
    try:
        pair = languages.choose(source_lang, target_lang)
    except UnknownLanguageError as error:
        raise CheckpointError(
            f"expected a stated pair that the checkpoint translates, found: {error}"
        ) from error
    source, target = pair.source_lang or source_lang, pair.target_lang or target_lang
    return replace(
        languages,
        sources=(source,),
        targets=(target,),
        pair_prefixes={
            each: prefix
            for each, prefix in languages.pair_prefixes.items()
            if each == (source, target)
        },
        default_target=None,
    )


def _fsmt_pair(config: Mapping[str, Any]) -> tuple[str, str] | None:
    langs = config.get("langs")
    if config.get("model_type") != "fsmt" or not langs:
        return None
    return str(langs[0]), str(langs[1])


def _of_tokenizer(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, default_target_ids: set[int | None]
) -> Languages:
    tokens = {
        code: token
        for code, token in _language_tokens(tokenizer)
        if _token_id(tokenizer, token) in range(vocab_size)
    }
    codes = tuple(sorted(tokens))
    defaults = [code for code in codes if _token_id(tokenizer, tokens[code]) in default_target_ids]
    return Languages(
        sources=codes,
        targets=codes,
        target_tokens=tokens,
        marks_source=True,
        starts_target=isinstance(tokenizer, MBartTokenizer | PLBartTokenizer),
        default_target=defaults[0] if len(defaults) == 1 else None,
    )


def _language_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    """Codes and their tokens: `de_DE`, `deu_Latn`, or `de` with the token `__de__`."""
    get_lang_token = getattr(tokenizer, "get_lang_token", None)
    if get_lang_token is not None:  # M2M100
        yield from ((code, get_lang_token(code)) for code in tokenizer.lang_code_to_id)
        return
    for token in {*tokenizer.get_added_vocab(), *getattr(tokenizer, "lang_code_to_id", ())}:
        marked = _MARKED_CODE.fullmatch(token)
        if marked is not None:  # PLBart, SeamlessM4T
            yield marked[1], token
        elif _LANGUAGE_CODE.fullmatch(token):
            yield token, token


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id


def _of_marian(tokenizer: PreTrainedTokenizerBase) -> Languages:
    source, target = tokenizer.source_lang, tokenizer.target_lang
    sources = (source,) if source and not _is_collective(source) else ()
    markers = {
        found[1]: marker
        for marker in tokenizer.supported_language_codes
        if (found := _TARGET_MARKER.fullmatch(marker))
    }
    if markers:
        return Languages(sources=sources, targets=tuple(sorted(markers)), target_markers=markers)
    return Languages(sources=sources, targets=(target,) if target else ())


def _is_collective(code: str) -> bool:
    return _COLLECTIVE.fullmatch(code) is not None or not langcodes.tag_is_valid(code)


def _of_prefixes(task_specific_params: Mapping[str, Any]) -> Languages:
    prefixes = {
        (found[1], found[2]): str(values.get("prefix") or "")
        for name, values in task_specific_params.items()
        if (found := _TRANSLATION_TASK.fullmatch(name))
    }
    return Languages(
        sources=tuple(sorted({source for source, _ in prefixes})),
        targets=tuple(sorted({target for _, target in prefixes})),
        pair_prefixes=prefixes,
    )


def _of_target_tokens(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Languages:
    if config.get("model_type") not in _T5_TYPES:
        return Languages()
    markers = {
        found[1]: token
        for token in tokenizer.get_vocab()
        if (found := _TARGET_PIECE.fullmatch(token)) and bcp47_tag(found[1]) is not None
    }
    return Languages(targets=tuple(sorted(markers)), target_markers=markers)
