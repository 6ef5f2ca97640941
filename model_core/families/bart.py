"""BART, mBART, Marian, M2M100 / NLLB, Pegasus: one layer layout, different edges."""

from typing import Any

from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from model_core.decoder import (
    CrossAttention,
    Decoder,
    DecoderLayer,
    Embeddings,
    FeedForward,
    Head,
    Linear,
    Positions,
    SelfAttention,
)
from model_core.families.weights import layer_norm, linear

_NORM_FIRST = {"mbart", "m2m_100", "pegasus"}


def build_bart_decoder(model: PreTrainedModel) -> Decoder:
    """The lean decoder of a `...ForConditionalGeneration` of this family (or `MarianMTModel`)."""
    config: Any = model.config
    decoder: Any = model.model.decoder
    num_heads = config.decoder_attention_heads
    head_dim = config.d_model // num_heads
    bias = getattr(model, "final_logits_bias", None)
    return Decoder(
        embeddings=_embeddings(decoder),
        layers=tuple(_layer(layer, ACT2FN[config.activation_function]) for layer in decoder.layers),
        head=Head(linear(model.lm_head), bias=None if bias is None else bias[0]),
        num_heads=num_heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        norm_first=config.model_type in _NORM_FIRST,
        final_norm=layer_norm(decoder.layer_norm) if hasattr(decoder, "layer_norm") else None,
        max_positions=config.max_position_embeddings,
    )


def _embeddings(decoder: Any) -> Embeddings:
    tokens = decoder.embed_tokens
    # BART and mBART scale inside the embedding module, Marian and Pegasus outside it.
    scale = getattr(tokens, "embed_scale", getattr(decoder, "embed_scale", 1.0))
    norm = getattr(decoder, "layernorm_embedding", None)
    return Embeddings(
        tokens=tokens.weight,
        scale=float(scale),
        positions=_positions(decoder.embed_positions),
        norm=None if norm is None else layer_norm(norm),
    )


def _positions(module: Any) -> Positions:
    if hasattr(module, "make_weights"):
        # M2M100 counts positions from padding_idx + 1, and gives the padding row to pad tokens
        # that are generated inside a target.
        pad = module.padding_idx
        return Positions(module.weights, offset=pad + 1, pad_token_id=pad, pad_row=pad)
    return Positions(module.weight, offset=getattr(module, "offset", 0))


def _layer(layer: Any, activation: Any) -> DecoderLayer:
    own, cross = layer.self_attn, layer.encoder_attn
    return DecoderLayer(
        self_attention=SelfAttention(
            query_key_value=Linear.fuse(
                [linear(own.q_proj), linear(own.k_proj), linear(own.v_proj)]
            ),
            output=linear(own.out_proj),
            norm=layer_norm(layer.self_attn_layer_norm),
        ),
        cross_attention=CrossAttention(
            query=linear(cross.q_proj),
            key=linear(cross.k_proj),
            value=linear(cross.v_proj),
            output=linear(cross.out_proj),
            norm=layer_norm(layer.encoder_attn_layer_norm),
        ),
        feed_forward=FeedForward(
            up=linear(layer.fc1),
            down=linear(layer.fc2),
            activation=activation,
            norm=layer_norm(layer.final_layer_norm),
        ),
    )
