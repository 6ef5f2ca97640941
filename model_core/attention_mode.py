"""BigBird's attention: in blocks for long sources, in full for short ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_Mode = list[tuple[str, nn.Module | None]]


class AttentionMode:
    """Gives every source the attention that a freshly loaded encoder gives it.

    On a source that is too short for blocks, BigBird turns to full attention for good, so that the
    next long source gets another answer than alone. Afterwards this puts back what was there.
    Encoders of other kinds have no mode, and nothing is done.
    """

    def __init__(self, encoder: nn.Module) -> None:
        # The encoder, its layers, and their attention, which keeps its projections in `self`.
        self._switched = [each for each in encoder.modules() if hasattr(each, "attention_type")]
        self._loaded = self._mode()
        self._full = self._loaded
        self._longest_full = 0

    @contextmanager
    def as_loaded(self, source_len: int) -> Iterator[None]:
        """While an encoder runs on sources of one length."""
        if source_len <= self._longest_full:
            self._set(self._full)  # the library would make, and fill, new projections again
        try:
            yield
        finally:
            self._remember(source_len)
            self._set(self._loaded)

    def _remember(self, source_len: int) -> None:
        """Whether the encoder has turned to full attention at this length."""
        mode = self._mode()
        if any(now != loaded for (now, _), (loaded, _) in zip(mode, self._loaded, strict=True)):
            self._full = mode
            self._longest_full = max(self._longest_full, source_len)

    def _mode(self) -> _Mode:
        modules: list[Any] = self._switched
        return [(each.attention_type, getattr(each, "self", None)) for each in modules]

    def _set(self, mode: _Mode) -> None:
        modules: list[Any] = self._switched
        for module, (attention_type, projections) in zip(modules, mode, strict=True):
            module.attention_type = attention_type
            if projections is not None:
                module.self = projections
