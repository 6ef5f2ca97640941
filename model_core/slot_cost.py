"""What a slot costs: cache bytes of a request from its lengths and its beams."""

import math
from dataclasses import dataclass

import torch

from model_core.cache import BLOCK_LEN
from model_core.key_values import CacheLayout

_LOGITS_COPIES = 4
"""Logits, their log-softmax, totals, and what a processor makes of them."""
_SHORTEST_CAPACITY = 32


@dataclass(frozen=True, slots=True)
class SlotCost:
    """The arithmetic of admission, which planning shares.

    Attributes:
        layout: Shape of one token's keys and values.
        vocab_size: Logits of one row.
    """

    layout: CacheLayout
    vocab_size: int

    def bytes(self, source_len: int, max_length: int, num_hypotheses: int) -> int:
        """Bytes that a slot can grow to.

        Args:
            source_len: Source tokens.
            max_length: Target tokens, the decoder start token included.
            num_hypotheses: Hypotheses decoded side by side.
        """
        # A target may begin in the middle of a block.
        positions = (math.ceil(max_length / BLOCK_LEN) + 1) * BLOCK_LEN
        entries = source_capacity(source_len) + positions * num_hypotheses
        logits_bytes = num_hypotheses * self.vocab_size * torch.float32.itemsize
        return entries * self.layout.bytes_per_token + _LOGITS_COPIES * logits_bytes


def source_capacity(source_len: int) -> int:
    """Source tokens that a slot has room for: sources up to the next power of two share a group."""
    return int(max(_SHORTEST_CAPACITY, 1 << (source_len - 1).bit_length()))
