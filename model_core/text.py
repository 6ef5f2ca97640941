"""Text -> source tokens and parameters of a request; target tokens -> text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from model_core.checkpoint import TASK_NAMES, Checkpoint
from model_core.errors import InvalidParameterError, SourceTooLongError
from model_core.generation import (
    GenerationDefaults,
    GenerationLimits,
    GenerationOverrides,
    GenerationParameters,
    Task,
)
from model_core.languages import LanguagePair
from model_core.resolve import DEFAULT_MAX_LENGTH, resolve
from model_core.tokens import TextTokenizer, needs_target_mode

__all__ = ["Overflow", "PreparedSource", "Task", "TextProcessor"]

Overflow = Literal["error", "truncate"]

_NEWEST = 0.05  # weight of the newest text in the mean length of tokens


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """One text, ready to be submitted.

    Attributes:
        source_ids: Encoder-side tokens, special tokens included.
        parameters: Fully resolved generation parameters.
        truncated: Whether the end of the text was cut off.
        source_lang: The checkpoint's code of it; None where it says nothing of languages.
        target_lang: The same for the target.
    """

    source_ids: tuple[int, ...]
    parameters: GenerationParameters
    truncated: bool
    source_lang: str | None = None
    target_lang: str | None = None

    @property
    def source_tokens(self) -> int:
        """Number of source tokens."""
        return len(self.source_ids)


class TextProcessor:
    """The tokenizers of one checkpoint, for any number of threads."""

    def __init__(self, checkpoint: Checkpoint, limits: GenerationLimits | None = None) -> None:
        self._checkpoint = checkpoint
        self._limits = limits or GenerationLimits()
        languages = checkpoint.languages
        self._source = TextTokenizer(
            checkpoint.tokenizer,
            markers={*languages.target_markers.values(), *languages.target_tokens.values()},
            add_special_tokens=checkpoint.add_special_tokens,
        )
        self._tokens_per_char: float | None = None
        self._target = self._source
        own = checkpoint.target_tokenizer
        if own is not checkpoint.tokenizer or needs_target_mode(own):
            self._target = TextTokenizer(own, add_special_tokens=False, is_target=True)

    @property
    def max_source_len(self) -> int:
        """Most source tokens of a request: the encoder's positions or the operator's limit."""
        positions = self._checkpoint.max_source_len
        limit = self._limits.max_source_len
        return limit if positions is None else min(positions, limit)

    def prepare(
        self,
        text: str,
        *,
        task: Task,
        source_lang: str | None = None,
        target_lang: str | None = None,
        overrides: GenerationOverrides | None = None,
        overflow: Overflow = "error",
        target_prefix: str | None = None,
    ) -> PreparedSource:
        """Tokenize a text as its task and languages want it, and resolve its parameters.

        Args:
            text: What to translate or to summarize.
            task: Decides the prefix and the defaults, where the checkpoint has several.
            source_lang: Language of the text; see `Languages.choose`.
            target_lang: Language of the answer.
            overrides: Generation parameters that the request names.
            overflow: What to do with more tokens than `max_source_len`: `error`, or `truncate`,
                which cuts off the end of the text and keeps all else: special tokens, language,
                prefix.
            target_prefix: How the answer begins; empty is none.

        Raises:
            InvalidParameterError: A text is blank, has no token or is no text, or a parameter is
                out of bounds.
            UnknownLanguageError: The checkpoint does not know a language.
            SourceTooLongError: The text is too long, and `overflow` is `error`.
        """
        _check_text("text", text)
        pair = self._pair(task, source_lang, target_lang)
        task_name = self._task_name(task, pair)
        defaults = self._defaults(task_name)
        named = (overrides or GenerationOverrides()).over(self._forced_target(pair, defaults))
        if target_prefix:
            named = self._with_prefix(target_prefix, named, defaults)
        parameters = resolve(defaults, named, limits=self._limits)
        if parameters.stop_strings:
            self._checkpoint.stop_strings.prepare()
        lead = pair.prefix or self._checkpoint.task_prefixes.get(task_name or "", "")
        source_ids, truncated = self._encode(text, lead, pair.tokenizer_lang, overflow)
        self._learn_length(text, len(source_ids), truncated=truncated)
        _check_shared_vocabulary(parameters, source_ids, defaults.vocab_size)
        return PreparedSource(source_ids, parameters, truncated, pair.source_lang, pair.target_lang)

    def expected_source_len(self, text: str) -> int | None:
        """Source tokens that a text is expected to have; None before any was read."""
        if self._tokens_per_char is None:
            return None
        return min(self.max_source_len, math.ceil(len(text) * self._tokens_per_char))

    def least_max_steps(self, max_length: int | None, max_new_tokens: int | None) -> int:
        """Steps that a request may take at the least, before its parameters are resolved.

        Its languages and its prefix may allow it more.

        Args:
            max_length: As the request names it.
            max_new_tokens: As the request names it.
        """
        if max_length is None and max_new_tokens is None:
            return self._least_default_steps
        return _least_steps(max_length, max_new_tokens)

    @cached_property
    def _least_default_steps(self) -> int:
        """The same for a request that names no length, whatever its task."""
        defaults = self._checkpoint.defaults
        named = [defaults.values, *(values for _, values in defaults.task_values)]
        most = min(self._limits.max_target_len, defaults.max_target_len or DEFAULT_MAX_LENGTH)
        lengths = [_least_steps(each.max_length, each.max_new_tokens) for each in named]
        return min([most - 1, *lengths])

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens: as `tokenizer.decode` gives it."""
        return self._target.decode(token_ids)

    def _learn_length(self, text: str, source_len: int, *, truncated: bool) -> None:
        """Threads may learn over each other: any of their texts will do."""
        if truncated or not text:
            return
        newest = source_len / len(text)
        former = newest if self._tokens_per_char is None else self._tokens_per_char
        self._tokens_per_char = former + _NEWEST * (newest - former)

    def _pair(self, task: Task, source_lang: str | None, target_lang: str | None) -> LanguagePair:
        if task == "summarize" and source_lang is None and target_lang is None:
            return LanguagePair()
        return self._checkpoint.languages.choose(source_lang, target_lang)

    def _task_name(self, task: Task, pair: LanguagePair) -> str | None:
        """The entry of `task_specific_params`: that of the pair, else that of the task."""
        known = {name for name, _ in self._checkpoint.defaults.task_values}
        return next((name for name in (pair.task_name, TASK_NAMES[task]) if name in known), None)

    def _defaults(self, task_name: str | None) -> GenerationDefaults:
        defaults = self._checkpoint.defaults
        return defaults if task_name is None else defaults.for_task(task_name)

    def _forced_target(
        self, pair: LanguagePair, defaults: GenerationDefaults
    ) -> GenerationOverrides:
        """How the target language is asked for.

        A checkpoint whose answers start with a language token (the first mBART) gets the target's
        token there; the others have it forced as the first token after the start.
        """
        if pair.target_token is None:
            return GenerationOverrides()
        token_id = self._source.id_of(pair.target_token)
        if self._starts_from_language(defaults):
            return GenerationOverrides(decoder_start_token_id=token_id)
        return GenerationOverrides(forced_bos_token_id=token_id)

    def _starts_from_language(self, defaults: GenerationDefaults) -> bool:
        languages = self._checkpoint.languages
        tokens = languages.target_tokens.values()
        if self._source.token_of(defaults.decoder_start_token_id) in tokens:
            return True
        forced = defaults.values.forced_bos_token_id
        forces_language = forced is not None and self._source.token_of(forced) in tokens
        return languages.starts_target and not forces_language

    def _with_prefix(
        self, target_prefix: str, named: GenerationOverrides, defaults: GenerationDefaults
    ) -> GenerationOverrides:
        """Begin the answer with a text, behind the token that is forced to be the first.

        Where an answer has a beginning, nothing is forced any more: the prefix has to say it.
        """
        _check_text("target_prefix", target_prefix)
        prefix = self._target.encode(target_prefix, field="target_prefix").body
        _check_ids("target_prefix", prefix, defaults.vocab_size)
        forced = named.over(defaults.values).forced_bos_token_id
        first = () if forced is None else (forced,)
        return replace(named, target_prefix_ids=(*first, *prefix))

    def _encode(
        self, text: str, lead: str, lang: str | None, overflow: Overflow
    ) -> tuple[tuple[int, ...], bool]:
        """Source tokens, and whether some were cut off."""
        encoded = self._source.encode(text, lead=lead, lang=lang)
        most = self.max_source_len
        source_ids = encoded.ids(most)
        truncated = len(source_ids) < len(encoded)
        if truncated and (overflow == "error" or not source_ids):
            raise SourceTooLongError(len(encoded), most)
        _check_ids("text", source_ids, self._checkpoint.source_vocab_size)
        return source_ids, truncated


def _least_steps(max_length: int | None, max_new_tokens: int | None) -> int:
    """A length counts the decoder start token, new tokens do not."""
    length = DEFAULT_MAX_LENGTH if max_length is None else max_length
    return min(length - 1, DEFAULT_MAX_LENGTH if max_new_tokens is None else max_new_tokens)


def _check_shared_vocabulary(
    parameters: GenerationParameters, source_ids: Sequence[int], vocab_size: int
) -> None:
    """Parameters that look for source tokens among target tokens need one vocabulary for both."""
    if max(source_ids) < vocab_size:
        return
    expected = "a checkpoint with one vocabulary for sources and targets"
    for name, neutral in (("encoder_repetition_penalty", 1.0), ("encoder_no_repeat_ngram_size", 0)):
        value = getattr(parameters, name)
        if value != neutral:
            raise InvalidParameterError(name, value, expected)


def _check_ids(field: str, ids: Sequence[int], vocab_size: int) -> None:
    if max(ids) >= vocab_size:
        raise InvalidParameterError(field, f"token {max(ids)}", "tokens that the checkpoint knows")


def _check_text(field: str, text: str) -> None:
    """Refuse what is no text; like every error of a text, without showing any of it."""
    given = f"{len(text)} characters"
    if not text.strip():
        raise InvalidParameterError(field, given, "at least one character that is not blank")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        expected = f"well-formed Unicode, unlike character {error.start}"
        raise InvalidParameterError(field, given, expected) from None
