"""Which languages a checkpoint knows, and how a source states them.

A checkpoint says so in one of these places; the first that says anything holds:

1. `config.json`: `"tandem": {"source_lang": "en", "target_lang": "de"}`, a key of our own for
   checkpoints without any other place, `EncoderDecoderModel` above all;
2. a tokenizer with a source language as state (mBART, mBART-50, M2M100, NLLB): its language codes;
3. a Marian tokenizer: its `source_lang` and `target_lang`, or its `>>xx<<` target tokens;
4. T5's `task_specific_params`: a prefix for each `translation_xx_to_yy`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import langcodes
from langcodes.tag_parser import LanguageTagError
from transformers import PreTrainedTokenizerBase

from model_core.errors import CheckpointError, UnknownLanguageError

# Largest distance (langcodes, after CLDR) at which two tags of one language mean the same: it
# allows for territories (de, de_DE) and dialects of a macrolanguage, not for other scripts.
_MAX_DISTANCE = 14
_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
_TARGET_MARKER = re.compile(r">>(.+)<<")
_TRANSLATION_TASK = re.compile(r"translation_([^_]+)_to_([^_]+)")
# Families and "many": Marian checkpoints that take several source languages name these.
_COLLECTIVE = re.compile(
    r"mul|ine|inc|roa|itc|gem|gmw|gmq|sla|zle|zlw|zls|cel|fiu|urj|trk|sem|afa|bat|bnt|map|poz|pqw"
    r"|pqe|dra|alv|nic|cpf|cpp|cus|aav|sit|euq|art|iir|ira|tut|sal|ssa|tai|phi|cau|ccs|sgn|wen"
)


@dataclass(frozen=True, slots=True)
class LanguagePair:
    """One direction of translation, in the checkpoint's own codes.

    Attributes:
        source_lang: None where the checkpoint says nothing of it.
        target_lang: The same for the target.
        tokenizer_lang: Source language that the tokenizer must be set to.
        target_token: Token that the answer has to begin with.
        prefix: Goes before the text.
        task_name: The entry of `task_specific_params` that describes this pair.
    """

    source_lang: str | None = None
    target_lang: str | None = None
    tokenizer_lang: str | None = None
    target_token: str | None = None
    prefix: str = ""
    task_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Languages:
    """The languages of one checkpoint.

    Attributes:
        sources: Codes, as the checkpoint writes them; empty where it does not name them.
        targets: The same for target languages.
        pair_prefixes: T5's text before the source, by pair; where given, no other pair is known.
        target_markers: Marian's token before the source, by target language.
        target_tokens: The token that makes an answer begin in each target language.
        marks_source: Whether the tokenizer has a source language as state.
        default_target: The target language that the checkpoint's generation defaults force.
    """

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    pair_prefixes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    target_markers: Mapping[str, str] = field(default_factory=dict)
    target_tokens: Mapping[str, str] = field(default_factory=dict)
    marks_source: bool = False
    default_target: str | None = None

    def accepts(self, source_lang: str | None, target_lang: str | None) -> bool:
        """Whether this pair, left out where there is no choice, can be translated."""
        try:
            self.choose(source_lang, target_lang)
        except UnknownLanguageError:
            return False
        return True

    def choose(self, source_lang: str | None, target_lang: str | None) -> LanguagePair:
        """The pair that is meant.

        Args:
            source_lang: The checkpoint's own code, an ISO code or a BCP 47 tag; may be left out
                where only one is possible.
            target_lang: The same for the target.

        Raises:
            UnknownLanguageError: The language is not known, or left out where there is a choice.
        """
        source = _choose("source_lang", source_lang, self.sources, default=None)
        targets = self.targets
        if self.pair_prefixes:
            targets = tuple(target for origin, target in self.pair_prefixes if origin == source)
        target = _choose("target_lang", target_lang, targets, default=self.default_target)
        return LanguagePair(
            source_lang=source,
            target_lang=target,
            tokenizer_lang=source if self.marks_source else None,
            target_token=self.target_tokens.get(target or ""),
            prefix=self._prefix(source or "", target or ""),
            task_name=f"translation_{source}_to_{target}" if self.pair_prefixes else None,
        )

    def _prefix(self, source: str, target: str) -> str:
        marker = self.target_markers.get(target)
        return self.pair_prefixes.get((source, target), "") if marker is None else f"{marker} "


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
        CheckpointError: The `tandem` entry of the configuration is malformed.
    """
    stated = _stated(config)
    if stated is not None:
        return Languages(sources=(stated[0],), targets=(stated[1],))
    if hasattr(tokenizer, "src_lang"):
        return _of_tokenizer(tokenizer, vocab_size, set(default_target_ids))
    if hasattr(tokenizer, "supported_language_codes"):
        return _of_marian(tokenizer)
    return _of_prefixes(config.get("task_specific_params") or {})


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
        default_target=defaults[0] if len(defaults) == 1 else None,
    )


def _language_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    """Codes and their tokens: `de_DE`, `deu_Latn`, or `de` with the token `__de__`."""
    get_lang_token = getattr(tokenizer, "get_lang_token", None)
    if get_lang_token is not None:  # M2M100
        yield from ((code, get_lang_token(code)) for code in tokenizer.lang_code_to_id)
        return
    for token in tokenizer.get_added_vocab():
        if _LANGUAGE_CODE.fullmatch(token):
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


def _choose(
    name: str, given: str | None, known: tuple[str, ...], *, default: str | None
) -> str | None:
    if not known:  # the checkpoint does not say: there is nothing to check against
        return given
    if given is None:
        if len(known) > 1 and default not in known:
            raise UnknownLanguageError(name, None, known)
        return default if default in known else known[0]
    code = match_language(given, known)
    if code is None:
        raise UnknownLanguageError(name, given, known)
    return code


@lru_cache(maxsize=4096)
def match_language(given: str, known: tuple[str, ...]) -> str | None:
    """The one of the known codes that means the given language; None where none does.

    A code of the checkpoint itself is taken as it is. Others are compared as BCP 47 tags: `de`
    and `deu` mean `de_DE`, `deu_Latn` or `__de__`; `zh-TW` means `zho_Hant`, never `zho_Hans`.
    """
    by_spelling = {_bare(code).lower(): code for code in known}
    if given in known:
        return given
    if _bare(given).lower() in by_spelling:
        return by_spelling[_bare(given).lower()]
    wanted = _tag(given)
    if wanted is None:
        return None
    tags = {tag: code for code in reversed(known) if (tag := _tag(code)) is not None}
    alike = [tag for tag in tags if _means_same(wanted, tag)]
    best, distance = langcodes.closest_match(wanted, alike, max_distance=_MAX_DISTANCE)
    return tags[best] if distance <= _MAX_DISTANCE and best in tags else None


def _bare(code: str) -> str:
    return code.strip("_<>")


def _tag(code: str) -> str | None:
    """A BCP 47 tag; fairseq's `XX` (no territory in particular) is left out."""
    try:
        tag = langcodes.standardize_tag(_bare(code).removesuffix("_XX"))
    except LanguageTagError:
        return None
    return tag if langcodes.tag_is_valid(tag) else None


def _means_same(wanted: str, known: str) -> bool:
    """Whether two tags are of one (macro)language: near ones, as `lb` and `de`, are not."""
    if _macrolanguage(wanted) == _macrolanguage(known):
        return True
    return langcodes.tag_distance(wanted, known) <= 1


def _macrolanguage(tag: str) -> str | None:
    return langcodes.Language.get(langcodes.standardize_tag(tag, macro=True)).language
