"""What a slot costs: cache bytes of a request from its lengths and its beams."""

from dataclasses import dataclass

import torch

from model_core.cache import STEPS_OF_GROWTH
from model_core.key_values import CacheLayout
from model_core.request import Request

_LOGITS_COPIES = 4
"""Logits, their log-softmax, totals, and what a processor makes of them."""
_SHORTEST_SOURCE = 32


@dataclass(frozen=True, slots=True)
class Capacity:
    """Tokens that a slot has room for. Requests of one capacity share a group.

    Lengths go up to the next power of two, so that few groups serve many requests and none holds
    more than twice what it asked for. A group whose targets were of any length would hold as much
    for each as for its longest one, of which their reservations know nothing.

    Attributes:
        source: Of sources.
        target: Of targets, the decoder start token included.
    """

    source: int
    target: int

    @classmethod
    def of(cls, source_len: int, max_length: int) -> "Capacity":
        """The least that holds a request."""
        return cls(
            max(_SHORTEST_SOURCE, power_of_two(source_len)),
            max(STEPS_OF_GROWTH, power_of_two(max_length)),
        )


@dataclass(frozen=True, slots=True)
class SlotCost:
    """The arithmetic of admission, which planning shares.

    Attributes:
        layout: Shape of one token's keys and values.
        vocab_size: Logits of one row.
    """

    layout: CacheLayout
    vocab_size: int

    def of(self, request: Request) -> int:
        """Bytes that the slot of a request can grow to."""
        parameters = request.parameters
        return self.bytes(request.source_len, parameters.max_length, parameters.num_hypotheses)

    def bytes(self, source_len: int, max_length: int, num_hypotheses: int) -> int:
        """Bytes that a slot can grow to.

        Args:
            source_len: Source tokens.
            max_length: Target tokens, the decoder start token included.
            num_hypotheses: Hypotheses decoded side by side.
        """
        capacity = Capacity.of(source_len, max_length)
        # What was written since garbage was collected is at most what the cache grows by.
        entries = capacity.source + (capacity.target + STEPS_OF_GROWTH) * num_hypotheses
        logits_bytes = num_hypotheses * self.vocab_size * torch.float32.itemsize
        return entries * self.layout.bytes_per_token + _LOGITS_COPIES * logits_bytes


def power_of_two(least: int) -> int:
    """The first one that is not below `least`, which is positive."""
    return 1 << (least - 1).bit_length()
