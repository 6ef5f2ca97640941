"""Seeded workloads in the shapes of well-known checkpoints, with random weights.

Every request has the length of its target forced, so that every system does the same work. Lengths
are multiples of 8: a system that takes one length per batch gets full batches of equal ones.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
)

EOS = 0
_LENGTH_UNIT = 8
_FIRST_ORDINARY = 5
_SEED = 0


@dataclass(frozen=True)
class Item:
    """One request: its source, with EOS at the end, and how many tokens its target has."""

    source_ids: tuple[int, ...]
    target_len: int


@dataclass(frozen=True)
class Workload:
    """A shape of checkpoint and a mixture of requests.

    Attributes:
        build: Makes the model; its weights are drawn from the seeded default generator.
        vocab_size: Of sources and targets.
        num_beams: Of every request.
        source_len: Draws the length of a source.
        target_len: Draws the length of a target from that of its source.
    """

    build: Callable[[], PreTrainedModel]
    vocab_size: int
    num_beams: int
    source_len: Callable[[random.Random], int]
    target_len: Callable[[random.Random, int], float]

    def model(self) -> PreTrainedModel:
        """The model, the same in every process."""
        torch.manual_seed(_SEED)
        model = self.build()
        defaults: Any = model.generation_config
        defaults.update(bad_words_ids=None, forced_eos_token_id=None)
        model.eval()  # type: ignore[no-untyped-call]
        return model

    def items(self, num_items: int) -> list[Item]:
        """The requests, the same in every process."""
        rng = random.Random(_SEED)
        return [self._item(rng) for _ in range(num_items)]

    def _item(self, rng: random.Random) -> Item:
        source_len = self.source_len(rng)
        ordinary = range(_FIRST_ORDINARY, self.vocab_size - 1)
        source_ids = (*rng.choices(ordinary, k=source_len - 1), EOS)
        units = round(self.target_len(rng, source_len) / _LENGTH_UNIT)
        return Item(source_ids, max(1, units) * _LENGTH_UNIT)


def _marian() -> PreTrainedModel:
    return MarianMTModel(
        MarianConfig(
            vocab_size=58_101,
            d_model=512,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            encoder_ffn_dim=2048,
            decoder_ffn_dim=2048,
            max_position_embeddings=512,
            scale_embedding=True,
            activation_function="swish",
            pad_token_id=58_100,
            eos_token_id=EOS,
            decoder_start_token_id=58_100,
        )
    )


def _bart() -> PreTrainedModel:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=50_265,
            d_model=768,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=12,
            decoder_attention_heads=12,
            encoder_ffn_dim=3072,
            decoder_ffn_dim=3072,
            max_position_embeddings=1024,
            bos_token_id=1,
            pad_token_id=2,
            eos_token_id=EOS,
            decoder_start_token_id=EOS,
            forced_eos_token_id=None,
        )
    )


def _bert2bert() -> PreTrainedModel:
    encoder, decoder = BertConfig(), BertConfig(is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=101, pad_token_id=1, eos_token_id=EOS
    )
    model = EncoderDecoderModel(config=config)
    defaults: Any = model.generation_config
    defaults.update(decoder_start_token_id=101, pad_token_id=1, eos_token_id=EOS)
    return model


def _short_source(rng: random.Random) -> int:
    """5 to 60 tokens, log-normal, 22 in the middle."""
    return min(60, max(5, round(rng.lognormvariate(3.09, 0.5))))


def _translated(rng: random.Random, source_len: int) -> float:
    return source_len * rng.uniform(0.7, 1.4)


def _summarized(rng: random.Random, source_len: int) -> float:
    return rng.uniform(40, 120)


WORKLOADS: dict[str, Workload] = {
    "translate": Workload(_marian, 58_101, 4, _short_source, _translated),
    "translate-greedy": Workload(_marian, 58_101, 1, _short_source, _translated),
    "summarize": Workload(_bart, 50_265, 4, lambda rng: rng.randint(200, 900), _summarized),
    "bert2bert": Workload(_bert2bert, 30_522, 4, lambda rng: rng.randint(100, 500), _summarized),
}
"""`translate` has the shape of the OPUS-MT checkpoints, `summarize` that of BART-base."""
