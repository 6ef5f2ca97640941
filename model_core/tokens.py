"""One tokenizer, for any number of threads: text -> tokens, tokens -> text."""

import copy
import re
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from model_core.errors import InvalidParameterError
from model_core.literal import LiteralTokens, literal_tokens

_PROBES = "a1.中"
"""Ordinary texts: every vocabulary knows one of them, or has a token for what it does not know."""

# Byte-pair encoding in Python (FSMT, Blenderbot small) takes a time that grows with the square of
# a word's length, minutes for 100 kB without a blank, and keeps every word that it ever saw.
_MAX_WORD_CHARS = 1000
_LONG_WORD = re.compile(rf"\S{{{_MAX_WORD_CHARS + 1}}}")
_MAX_CACHED_WORDS = 100_000


@dataclass(frozen=True, slots=True)
class EncodedText:
    """The tokens of a text between the special tokens that the tokenizer adds.

    Attributes:
        head: Special tokens before the text.
        body: The lead and the text.
        tail: Special tokens after it.
        lead_tokens: How many tokens the lead has by itself.
    """

    head: tuple[int, ...]
    body: tuple[int, ...]
    tail: tuple[int, ...]
    lead_tokens: int

    def __len__(self) -> int:
        return len(self.head) + len(self.body) + len(self.tail)

    def ids(self, most: int) -> tuple[int, ...]:
        """At most so many tokens: the end of the text is cut off, and nothing else.

        Empty where nothing of the text would be left.
        """
        room = most - len(self.head) - len(self.tail)
        if room <= self.lead_tokens:
            return ()
        return (*self.head, *self.body[:room], *self.tail)


class TextTokenizer:
    """A copy of a tokenizer that nobody else sees, and a lock: one thread uses it at a time."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        markers: Collection[str] = (),
        add_special_tokens: bool = True,
        is_target: bool = False,
    ) -> None:
        """Copy a tokenizer.

        Args:
            tokenizer: Of a checkpoint.
            markers: Tokens that are control, although the tokenizer has them for ordinary ones.
            add_special_tokens: Whether a text gets the special tokens that it adds.
            is_target: Whether it reads text as that of answers.
        """
        self._tokenizer: Any = copy.deepcopy(tokenizer)
        if is_target:
            _read_as_target(self._tokenizer)
        self._adds_special = add_special_tokens
        self._first_lang: str | None = getattr(self._tokenizer, "src_lang", None)
        self._control = {*_special_tokens(self._tokenizer), *markers}
        self._control_ids = _ids_of(self._tokenizer, self._control)
        self._frames: dict[str | None, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._literal: LiteralTokens | None = None
        self._lock = threading.Lock()

    def encode(
        self, text: str, *, lead: str = "", lang: str | None = None, field: str = "text"
    ) -> EncodedText:
        """The tokens that the library's tokenizer gives, except that special tokens are text.

        Args:
            text: A user's: nothing in it is control.
            lead: Goes before the text, and may be control.
            lang: What the tokenizer's source language is to be, where it has one.
            field: What the user calls the text.

        Raises:
            InvalidParameterError: The text has no token, or control that cannot be read as text.
        """
        with self._lock:
            # Also where no language is named: else the last caller's would stay.
            wanted = lang or self._first_lang
            if wanted is not None and self._tokenizer.src_lang != wanted:
                self._tokenizer.src_lang = wanted
            if hasattr(self._tokenizer, "bpe"):
                _check_words(text, field)
                _forget_words(getattr(self._tokenizer, "cache", {}))
            lead_ids = self._read(lead.rstrip()) if lead else []
            body = self._body(text, lead, lead_ids, field)
            head, tail = self._frame(wanted)
        if not body:
            given = f"{len(text)} characters"
            raise InvalidParameterError(field, given, "at least one token: this text has none")
        return EncodedText(head, tuple(body), tail, len(lead_ids))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text without special tokens, as the library's tokenizer gives it."""
        with self._lock:
            text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def id_of(self, token: str) -> int:
        """The id of a token."""
        with self._lock:
            token_id = self._tokenizer.convert_tokens_to_ids(token)
        assert isinstance(token_id, int)
        return token_id

    def token_of(self, token_id: int) -> str:
        """The token of an id."""
        with self._lock:
            return str(self._tokenizer.convert_ids_to_tokens(token_id))

    def _read(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def _body(self, text: str, lead: str, lead_ids: list[int], field: str) -> list[int]:
        """Lead and text; empty where the text has no token."""
        body = self._read(lead + text)
        if self._is_misread(text, body, lead, lead_ids):
            return self._literally(text, lead, lead_ids, field)
        if lead and len(body) <= len(lead_ids) + 1 and not self._read(text):
            return []
        return body

    def _is_misread(self, text: str, body: list[int], lead: str, lead_ids: list[int]) -> bool:
        """Whether something that the user typed became control."""
        if self._num_control(body) > self._num_control(lead_ids):
            return True
        unknown = self._tokenizer.unk_token
        if unknown and unknown in text:
            return True
        # Marian takes anything like `>>xx<<` at the beginning for a language, known or not.
        takes_marker = hasattr(self._tokenizer, "remove_language_code")
        return takes_marker and not lead and text.startswith(">>")

    def _num_control(self, ids: Sequence[int]) -> int:
        return sum(token_id in self._control_ids for token_id in ids)

    def _literally(self, text: str, lead: str, lead_ids: list[int], field: str) -> list[int]:
        if self._literal is None:  # a second vocabulary in memory: made when it is first needed
            self._literal = literal_tokens(self._tokenizer, self._control)
        if not self._num_control(lead_ids):
            text, lead_ids = lead + text, []
        ids = self._literal.ids(text)
        left = self._control_ids.intersection(ids) - {self._tokenizer.unk_token_id}
        if left:
            token = self._tokenizer.convert_ids_to_tokens(min(left))
            expected = "no special token: this tokenizer cannot read it as text"
            raise InvalidParameterError(field, token, expected)
        return [*lead_ids, *ids] if ids else []

    def _frame(self, lang: str | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens that the tokenizer adds before and after a text in a language."""
        if not self._adds_special:
            return (), ()
        if lang not in self._frames:
            probe, body = next((probe, body) for probe in _PROBES if (body := self._read(probe)))
            whole: list[int] = self._tokenizer(probe, verbose=False).input_ids
            begin = next(at for at in range(len(whole)) if whole[at : at + len(body)] == body)
            self._frames[lang] = tuple(whole[:begin]), tuple(whole[begin + len(body) :])
        return self._frames[lang]


def _check_words(text: str, field: str) -> None:
    if _LONG_WORD.search(text):
        given = f"a word of more than {_MAX_WORD_CHARS} characters"
        expected = f"words of at most {_MAX_WORD_CHARS} characters, as this tokenizer needs"
        raise InvalidParameterError(field, given, expected)


def _forget_words(cache: dict[str, str]) -> None:
    if len(cache) > _MAX_CACHED_WORDS:
        cache.clear()


def needs_target_mode(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether text of answers is read in another way than that of sources.

    Marian has a sentencepiece model for each side, FSMT a vocabulary; the others only put other
    special tokens around it.
    """
    return hasattr(tokenizer, "separate_vocabs") or hasattr(tokenizer, "tgt_vocab_size")


def _read_as_target(tokenizer: Any) -> None:
    if hasattr(tokenizer, "separate_vocabs"):
        tokenizer._switch_to_target_mode()
        tokenizer._in_target_context_manager = True  # else every call switches back
    elif hasattr(tokenizer, "tgt_vocab_size"):
        tokenizer.encoder = {token: token_id for token_id, token in tokenizer.decoder.items()}
        tokenizer.src_lang = tokenizer.tgt_lang


def _special_tokens(tokenizer: Any) -> set[str]:
    added = tokenizer.added_tokens_decoder.values()
    special = {str(token) for token in added if token.special}
    return special.union(map(str, tokenizer.all_special_tokens))


def _ids_of(tokenizer: Any, control: Collection[str]) -> frozenset[int]:
    """Ids that are control, wherever they come from; that of unknown characters is not."""
    ids = {tokenizer.convert_tokens_to_ids(token) for token in control}
    roles = {role: str(token) for role, token in tokenizer.special_tokens_map.items()}
    unknown = roles.pop("unk_token", None)
    if unknown not in roles.values():
        ids.discard(tokenizer.unk_token_id)
    return frozenset(token_id for token_id in ids if isinstance(token_id, int))
