"""Text -> tokens in which nothing is control: special tokens that a user typed are text.

`split_special_tokens`, the library's own way, is not enough: Unigram and merged BPE vocabularies
hold `</s>` as a piece like any other, sentencepiece its user-defined symbols, some tokenizers never
split a special token, and without a backend it splits the words that somebody added, too.
"""

import json
import re
import secrets
from collections.abc import Collection, Iterator
from typing import Any, Protocol

from tokenizers import Tokenizer
from transformers.tokenization_python import Trie


class LiteralTokens(Protocol):
    """Reads a text as nothing but text."""

    def ids(self, text: str) -> list[int]:
        """Tokens of the text, none of them special except for what is unknown."""
        ...


def literal_tokens(tokenizer: Any, control: Collection[str]) -> LiteralTokens:
    """How a tokenizer reads a text in which `control` tokens are plain characters.

    Args:
        tokenizer: Of the library, with a backend or without. It is not changed, and one without a
            backend is read from then on.
        control: What the tokenizer would take for special tokens.
    """
    if tokenizer.is_fast:
        return _BackendLiteral(tokenizer, control)
    return _PythonLiteral(tokenizer, control)


class _BackendLiteral:
    """A second backend, in which the control tokens have names that nobody can type.

    The ids stay what they are, so that it agrees with the first wherever no such name is read.
    """

    def __init__(self, tokenizer: Any, control: Collection[str]) -> None:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state.update(truncation=None, padding=None, post_processor=None)
        secret = secrets.token_hex(16)
        names = {token: f"{secret}{number}" for number, token in enumerate(control)}
        _rename(state["model"], names)
        for added in state["added_tokens"]:
            added["content"] = names.get(added["content"], added["content"])
        self._backend = Tokenizer.from_str(json.dumps(state))

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """Give tokens of a backend's model new names."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: pieces with their scores
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
        return
    model["vocab"] = {names.get(token, token): token_id for token, token_id in vocab.items()}
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [
            (left, right)
            for left, right in model["merges"]
            if names.keys().isdisjoint((left, right, left + right))
        ]


class _PythonLiteral:
    """The library's way for tokenizers without a backend, with a trie of ordinary words only."""

    def __init__(self, tokenizer: Any, control: Collection[str]) -> None:
        self._tokenizer = tokenizer
        self._control = frozenset(control)
        self._words = frozenset(
            str(token)
            for token in tokenizer.added_tokens_decoder.values()
            if not token.special and str(token) not in self._control
        )
        self._trie = Trie(self._words)  # type: ignore[no-untyped-call]
        longest_first = sorted(self._control, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)))

    def ids(self, text: str) -> list[int]:
        text, _ = self._tokenizer.prepare_for_tokenization(text)
        pieces: list[str] = []
        for part in self._trie.split(text):
            pieces += [part] if part in self._words else self._pieces(part)
        ids: list[int] = self._tokenizer.convert_tokens_to_ids(pieces)
        return ids

    def _pieces(self, text: str) -> list[str]:
        pieces = self._tokenize(text)
        if not self._has_control(text, pieces):
            return pieces
        # A tokenizer that keeps special tokens whole by itself gets them in two parts.
        return [piece for part in self._in_two(text) for piece in self._tokenize(part)]

    def _tokenize(self, text: str) -> list[str]:
        if hasattr(self._tokenizer, "remove_language_code"):
            # Marian's own way begins with taking `>>xx<<` off the text.
            marian: list[str] = self._tokenizer.current_spm.encode(text, out_type=str)
            return marian
        pieces: list[str] = self._tokenizer._tokenize(text)
        return pieces

    def _has_control(self, text: str, pieces: list[str]) -> bool:
        """Whether a control token was read; what is unknown may have the name of one."""
        unknown = self._tokenizer.unk_token
        return any(
            piece in self._control and (piece != unknown or unknown in text) for piece in pieces
        )

    def _in_two(self, text: str) -> Iterator[str]:
        begin = 0
        for found in self._control_pattern.finditer(text):
            yield text[begin : found.start() + 1]
            begin = found.start() + 1
        yield text[begin:]
