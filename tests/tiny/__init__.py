"""Tiny random checkpoints of every architecture that the tests need: seeded, no download."""

from tests.tiny.bart import M2M100_VOCAB, MBART_GERMAN
from tests.tiny.checkpoints import (
    DECODER_ONLY_ARCHITECTURES,
    FALLBACK_ARCHITECTURES,
    LEAN_ARCHITECTURES,
    TINY_ARCHITECTURES,
    build_tiny_checkpoint,
)
from tests.tiny.draw import MAX_LENGTH, MAX_POSITIONS, VOCAB
from tests.tiny.sources import answer_of, assert_varied, random_sources
from tests.tiny.tokenizers import NLLB_LANGUAGES, SENTENCES

__all__ = [
    "DECODER_ONLY_ARCHITECTURES",
    "FALLBACK_ARCHITECTURES",
    "LEAN_ARCHITECTURES",
    "M2M100_VOCAB",
    "MAX_LENGTH",
    "MAX_POSITIONS",
    "MBART_GERMAN",
    "NLLB_LANGUAGES",
    "SENTENCES",
    "TINY_ARCHITECTURES",
    "VOCAB",
    "answer_of",
    "assert_varied",
    "build_tiny_checkpoint",
    "random_sources",
]
