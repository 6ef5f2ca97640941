"""Text -> source tokens and parameters of a request; target tokens -> text."""

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from model_core.resolve import resolve

__all__ = ["Overflow", "PreparedSource", "Task", "TextProcessor"]

Overflow = Literal["error", "truncate"]


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
    """The tokenizer of one checkpoint, for any number of threads.

    A tokenizer has state (its source language, truncation settings): this one is a copy that
    nobody else sees, and a lock lets one thread use it at a time.
    """

    def __init__(self, checkpoint: Checkpoint, limits: GenerationLimits | None = None) -> None:
        self._checkpoint = checkpoint
        self._limits = limits or GenerationLimits()
        self._tokenizer: Any = copy.deepcopy(checkpoint.tokenizer)
        self._first_lang: str | None = getattr(self._tokenizer, "src_lang", None)
        self._lock = threading.Lock()

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
    ) -> PreparedSource:
        """Tokenize a text as its task and languages want it, and resolve its parameters.

        Args:
            text: What to translate or to summarize.
            task: Decides the prefix and the defaults, where the checkpoint has several.
            source_lang: Language of the text; see `Languages.choose`.
            target_lang: Language of the answer.
            overrides: Generation parameters that the request names.
            overflow: What to do with more tokens than `max_source_len`: `error`, or `truncate`,
                which cuts off the end of the text and keeps the special tokens.

        Raises:
            InvalidParameterError: The text is blank or no text, or a parameter is out of bounds.
            UnknownLanguageError: The checkpoint does not know a language.
            SourceTooLongError: The text is too long, and `overflow` is `error`.
        """
        _check_text(text)
        pair = self._pair(task, source_lang, target_lang)
        task_name = self._task_name(task, pair)
        defaults = self._defaults(task_name)
        named = (overrides or GenerationOverrides()).over(self._forced_target(pair, defaults))
        parameters = resolve(defaults, named, limits=self._limits)
        if parameters.stop_strings:  # made here, so that the engine's thread finds it made
            self._checkpoint.stop_strings.criterion(parameters.stop_strings)
        prefix = pair.prefix or self._checkpoint.task_prefixes.get(task_name or "", "")
        source_ids, truncated = self._encode(prefix + text, pair.tokenizer_lang, overflow)
        return PreparedSource(source_ids, parameters, truncated, pair.source_lang, pair.target_lang)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens: as `tokenizer.decode` gives it."""
        with self._lock:
            text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text

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
        tokens = self._checkpoint.languages.target_tokens.values()
        with self._lock:
            start = self._tokenizer.convert_ids_to_tokens(defaults.decoder_start_token_id)
            token_id = self._tokenizer.convert_tokens_to_ids(pair.target_token)
        if start in tokens:
            return GenerationOverrides(decoder_start_token_id=token_id)
        return GenerationOverrides(forced_bos_token_id=token_id)

    def _encode(
        self, text: str, tokenizer_lang: str | None, overflow: Overflow
    ) -> tuple[tuple[int, ...], bool]:
        """Source tokens, and whether some were cut off."""
        most = self.max_source_len
        with self._lock:
            # Also where no language is named: else the last caller's would stay.
            wanted = tokenizer_lang or self._first_lang
            if wanted is not None and self._tokenizer.src_lang != wanted:
                self._tokenizer.src_lang = wanted
            source_ids = self._tokenizer(text, verbose=False).input_ids
            num_tokens = len(source_ids)
            if num_tokens > most and overflow == "truncate":
                source_ids = self._tokenizer(text, truncation=True, max_length=most).input_ids
        if len(source_ids) > most:
            raise SourceTooLongError(num_tokens, most)
        self._check_ids(source_ids)
        return tuple(source_ids), len(source_ids) < num_tokens

    def _check_ids(self, source_ids: Sequence[int]) -> None:
        known = self._checkpoint.source_vocab_size
        if max(source_ids, default=0) >= known:
            with self._lock:
                token = self._tokenizer.convert_ids_to_tokens(max(source_ids))
            raise InvalidParameterError("text", token, "tokens that the checkpoint knows")


def _check_text(text: str) -> None:
    if not text.strip():
        raise InvalidParameterError("text", text, "at least one character that is not blank")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidParameterError("text", ascii(text[:40]), "well-formed Unicode") from error
