"""Strings that end an answer: the library's own criterion, made once for each set of strings."""

import copy
import threading
from functools import lru_cache

from torch import Tensor
from transformers import PreTrainedTokenizerBase, StopStringCriteria

from model_core.errors import InvalidParameterError

_MAX_KEPT = 32


class StopStrings:
    """The stop-string criteria of one checkpoint, for any number of threads.

    Making one walks through the whole vocabulary: the thread that prepares a request does it, and
    the engine's thread finds it made.

    Args:
        tokenizer: The checkpoint's; a copy of it is kept.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.Lock()
        self._make = lru_cache(maxsize=_MAX_KEPT)(self._criterion)

    def criterion(self, strings: tuple[str, ...]) -> StopStringCriteria:
        """The criterion of these strings.

        Raises:
            InvalidParameterError: No token can end with one of them.
        """
        with self._lock:
            return self._make(strings)

    def _criterion(self, strings: tuple[str, ...]) -> StopStringCriteria:
        try:
            return StopStringCriteria(self.tokenizer, list(strings))
        except ValueError as error:
            expected = "characters that the checkpoint's vocabulary has"
            raise InvalidParameterError("stop_strings", list(strings), expected) from error


def stops(criterion: StopStringCriteria, token_ids: Tensor) -> Tensor:
    """Which of [n, target_len] targets end with a stop string: [n], bool."""
    stopped = criterion(token_ids, None)
    assert isinstance(stopped, Tensor)
    return stopped
