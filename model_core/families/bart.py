"""BART and what decodes like it: one layer layout, different edges."""

from dataclasses import replace
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
    Norm,
    Positions,
    SelfAttention,
)
from model_core.families.weights import layer_norm, linear

_NORM_FIRST = {"mbart", "m2m_100", "pegasus", "bigbird_pegasus", "blenderbot"}
_TOKEN_NORM = {"blenderbot-small"}
"""Their embedding norm stands before the positions are added; only their encoder scales."""
_FINAL_NORM = {"bigbird_pegasus"}
"""What they call an embedding norm stands after the last layer."""


def build_bart_decoder(model: PreTrainedModel) -> Decoder:
    """The lean decoder of a `...ForConditionalGeneration` of this family (or `MarianMTModel`)."""
    config: Any = model.config
    decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]
    num_heads = config.decoder_attention_heads
    head_dim = config.d_model // num_heads
    return Decoder(
        embeddings=_embeddings(decoder, config.model_type),
        layers=tuple(_layer(layer, ACT2FN[config.activation_function]) for layer in decoder.layers),
        head=Head(_output(model)),
        num_heads=num_heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        norm_first=config.model_type in _NORM_FIRST,
        final_norm=_final_norm(decoder, config.model_type),
    )


def _output(model: Any) -> Linear:
    """The output projection; `final_logits_bias` is nothing else than its bias."""
    output = linear(model.lm_head)
    bias = getattr(model, "final_logits_bias", None)
    if bias is None or not bias.any():
        return output
    bias = bias[0].to(output.weight.dtype)
    return replace(output, bias=bias if output.bias is None else output.bias + bias)


def _final_norm(decoder: Any, model_type: str) -> Norm | None:
    if model_type in _FINAL_NORM:
        return layer_norm(decoder.layernorm_embedding)
    return layer_norm(decoder.layer_norm) if hasattr(decoder, "layer_norm") else None


def _embeddings(decoder: Any, model_type: str) -> Embeddings:
    norm = None
    if hasattr(decoder, "layernorm_embedding") and model_type not in _FINAL_NORM:
        norm = layer_norm(decoder.layernorm_embedding)
    tokens, positions = decoder.embed_tokens, _positions(decoder.embed_positions)
    if model_type in _TOKEN_NORM:
        return Embeddings(tokens.weight, token_norm=norm, positions=positions)
    # BART and mBART scale inside the embedding module, Marian and Pegasus outside it.
    scale = getattr(tokens, "embed_scale", getattr(decoder, "embed_scale", 1.0))
    return Embeddings(tokens.weight, scale=float(scale), positions=positions, norm=norm)


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
            key_value=Linear.fuse([linear(cross.k_proj), linear(cross.v_proj)]),
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
