"""Decoders of `EncoderDecoderModel`: BERT and BertGeneration."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
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


def build_bert_decoder(model: PreTrainedModel) -> Decoder:
    """The lean decoder of an `EncoderDecoderModel` whose decoder is BERT or BertGeneration."""
    decoder: Any = model.decoder
    config: Any = decoder.config
    activation = ACT2FN[config.hidden_act]
    head_dim = config.hidden_size // config.num_attention_heads
    return Decoder(
        embeddings=_embeddings(decoder.bert.embeddings),
        layers=tuple(_layer(layer, activation) for layer in decoder.bert.encoder.layer),
        head=_head(decoder, activation),
        num_heads=config.num_attention_heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        norm_first=False,
        max_positions=config.max_position_embeddings,
    )


def _embeddings(module: Any) -> Embeddings:
    token_type = getattr(module, "token_type_embeddings", None)
    return Embeddings(
        tokens=module.word_embeddings.weight,
        positions=Positions(module.position_embeddings.weight),
        token_type=None if token_type is None else token_type.weight[0],
        norm=layer_norm(module.LayerNorm),
    )


def _head(decoder: Any, activation: Any) -> Head:
    if hasattr(decoder, "lm_head"):
        return Head(linear(decoder.lm_head.decoder))
    predictions = decoder.cls.predictions
    return Head(
        linear(predictions.decoder), transform=_head_transform(predictions.transform, activation)
    )


def _head_transform(module: Any, activation: Any) -> Callable[[Tensor], Tensor]:
    dense, norm = linear(module.dense), layer_norm(module.LayerNorm)

    def transform(hidden: Tensor) -> Tensor:
        return norm(activation(dense(hidden)))

    return transform


def _layer(layer: Any, activation: Any) -> DecoderLayer:
    own, cross = layer.attention, layer.crossattention
    return DecoderLayer(
        self_attention=SelfAttention(
            query_key_value=Linear.fuse(
                [linear(own.self.query), linear(own.self.key), linear(own.self.value)]
            ),
            output=linear(own.output.dense),
            norm=layer_norm(own.output.LayerNorm),
        ),
        cross_attention=CrossAttention(
            query=linear(cross.self.query),
            key=linear(cross.self.key),
            value=linear(cross.self.value),
            output=linear(cross.output.dense),
            norm=layer_norm(cross.output.LayerNorm),
        ),
        feed_forward=FeedForward(
            up=linear(layer.intermediate.dense),
            down=linear(layer.output.dense),
            activation=activation,
            norm=layer_norm(layer.output.LayerNorm),
        ),
    )
