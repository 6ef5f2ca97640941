"""T5 and what decodes like it: Flan-T5, mT5, UMT5, ByT5, LongT5."""

from typing import Any

from transformers import PreTrainedModel
from transformers.activations import ACT2FN

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
    """The lean decoder of a `T5ForConditionalGeneration` or of its kin."""
    config: Any = model.config
    decoder: Any = model.decoder
    return Decoder(
        embeddings=Embeddings(decoder.embed_tokens.weight),
        layers=tuple(_layer(block.layer, config) for block in decoder.block),
        head=Head(linear(model.lm_head), scale=config.d_model**-0.5 if _is_scaled(config) else 1.0),
        num_heads=config.num_heads,
        head_dim=config.d_kv,
        attention_scale=1.0,
        norm_first=True,
        final_norm=rms_norm(decoder.final_layer_norm),
        position_biases=_position_biases(decoder, config.relative_attention_max_distance),
    )


def _is_scaled(config: Any) -> bool:
    """Whether hidden states are scaled before the head.

    T5 and LongT5 keep what `tie_word_embeddings` said before they tied all the same (their v1.1
    says no), UMT5 always scales, and mT5 never.
    """
    if config.model_type == "umt5":
        return bool(config.tie_word_embeddings)
    return bool(getattr(config, "scale_decoder_outputs", False))


def _position_biases(decoder: Any, max_distance: int) -> tuple[PositionBias, ...]:
    """One for all layers, from the first, or UMT5's one per layer."""
    attentions = [block.layer[0].SelfAttention for block in decoder.block]
    biases = []
    for attention in attentions:
        if attention.has_relative_attention_bias:
            # The last query sees keys at all distances, the farthest first.
            rows = attention.compute_bias(1, max_distance + 1, past_seen_tokens=max_distance)
            biases.append(PositionBias(rows[0, :, 0].flip(-1)))
    return tuple(biases)


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
            key_value=Linear.fuse([linear(cross.k), linear(cross.v)]),
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
