"""T5 v1.0, T5 v1.1 / Flan-T5 (gated feed-forward), mT5."""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.t5.modeling_t5 import T5Attention

from model_core.cache import PositionBias
from model_core.decoder import (
    CrossAttention,
    Decoder,
    DecoderLayer,
    Embeddings,
    FeedForward,
    Head,
    Linear,
    SelfAttention,
)
from model_core.families.weights import linear, rms_norm


def build_t5_decoder(model: PreTrainedModel) -> Decoder:
    """The lean decoder of a `T5ForConditionalGeneration` or `MT5ForConditionalGeneration`."""
    config: Any = model.config
    decoder: Any = model.decoder
    # Only T5 itself scales; its v1.1 checkpoints say `tie_word_embeddings: false` and do not.
    scaled = getattr(config, "scale_decoder_outputs", False)
    return Decoder(
        embeddings=Embeddings(decoder.embed_tokens.weight),
        layers=tuple(_layer(block.layer, config) for block in decoder.block),
        head=Head(linear(model.lm_head), scale=config.d_model**-0.5 if scaled else 1.0),
        num_heads=config.num_heads,
        head_dim=config.d_kv,
        attention_scale=1.0,
        norm_first=True,
        final_norm=rms_norm(decoder.final_layer_norm),
        position_bias=_position_bias(decoder.block[0].layer[0].SelfAttention, config),
    )


def _position_bias(attention: Any, config: Any) -> PositionBias:
    max_distance = config.relative_attention_max_distance
    bucket_of: Any = T5Attention._relative_position_bucket
    buckets = bucket_of(
        -torch.arange(max_distance + 1),
        bidirectional=False,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=max_distance,
    )
    table = attention.relative_attention_bias.weight
    return PositionBias(table, buckets.to(table.device))


def _layer(parts: Any, config: Any) -> DecoderLayer:
    own, cross = parts[0].SelfAttention, parts[1].EncDecAttention
    return DecoderLayer(
        self_attention=SelfAttention(
            query_key_value=Linear.fuse([linear(own.q), linear(own.k), linear(own.v)]),
            output=linear(own.o),
            norm=rms_norm(parts[0].layer_norm),
        ),
        cross_attention=CrossAttention(
            query=linear(cross.q),
            key=linear(cross.k),
            value=linear(cross.v),
            output=linear(cross.o),
            norm=rms_norm(parts[1].layer_norm),
        ),
        feed_forward=_feed_forward(parts[2], config),
    )


def _feed_forward(part: Any, config: Any) -> FeedForward:
    dense = part.DenseReluDense
    gated = config.is_gated_act
    return FeedForward(
        up=linear(dense.wi_1 if gated else dense.wi),
        gate=linear(dense.wi_0) if gated else None,
        down=linear(dense.wo),
        activation=ACT2FN[config.dense_act_fn],
        norm=rms_norm(part.layer_norm),
    )
