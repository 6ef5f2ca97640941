"""Strings that end an answer, with the meaning that `generate()` gives them.

A hypothesis ends with the token in which a stop string ends; what else the token says stays. The
library's own criterion walks through the whole vocabulary for each new set of strings, which takes
seconds and hundreds of megabytes for a large one. This looks at the last tokens instead.
"""

import copy
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, StopStringCriteria

Pieces = Mapping[int, str | bytes]


class StopStrings:
    """What the tokens of one checkpoint spell, for any number of threads.

    Args:
        tokenizer: The checkpoint's; a copy of it is kept.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self._pieces: Pieces | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["StopStrings"], tuple[PreTrainedTokenizerBase]]:
        return StopStrings, (self.tokenizer,)  # a lock does not travel to another process

    def prepare(self) -> None:
        """Spell every token once; the thread that prepares a request spares the engine's that."""
        self._spelled()

    def ends(self, strings: Sequence[str], token_ids: Sequence[int]) -> bool:
        """Whether the last of [target_len] tokens completes one of these strings."""
        pieces = self._spelled()
        last = pieces.get(token_ids[-1])
        if not last:
            return False
        longest = max(map(len, strings))
        text = last
        for token_id in reversed(token_ids[-longest:-1]):
            piece = pieces.get(token_id)
            if piece is None or len(text) - len(last) >= 4 * longest:  # 4: bytes of a character
                break
            text = piece + text  # type: ignore[operator]  # all pieces are of one type
        before = len(text) - len(last)
        return any(_ends_behind(text, string, before) for string in strings)

    def _spelled(self) -> Pieces:
        if self._pieces is None:
            with self._lock:
                if self._pieces is None:
                    self._pieces = _spell(self.tokenizer)
        return self._pieces


def _spell(tokenizer: PreTrainedTokenizerBase) -> Pieces:
    """What each token adds to a text: bytes where tokens may be parts of a character."""
    library: Any = StopStringCriteria
    mode = library._get_stop_string_matching_mode(tokenizer)
    pieces, token_ids = library.clean_tokenizer_vocab(tokenizer, stop_string_matching_mode=mode)
    return dict(zip(token_ids, pieces, strict=True))


def _ends_behind(text: str | bytes, string: str, before: int) -> bool:
    """Whether the string occurs in the text with its end behind the first `before` characters."""
    wanted = string if isinstance(text, str) else string.encode()
    start = max(0, before - len(wanted) + 1)
    return text.find(wanted, start) >= 0  # type: ignore[arg-type]  # both are str, or bytes
