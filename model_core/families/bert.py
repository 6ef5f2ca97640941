"""Decoders of `EncoderDecoderModel`: BERT and its kin, one layer layout with different edges."""

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
    HeadTransform,
    Linear,
    Positions,
    SelfAttention,
)
from model_core.families.weights import layer_norm, linear


def build_bert_decoder(model: PreTrainedModel) -> Decoder:
    """The lean decoder of an `EncoderDecoderModel` with a decoder of this family.

    That is BERT, BertGeneration, RoBERTa, XLM-RoBERTa, CamemBERT or ELECTRA.
    """
    decoder: Any = model.decoder
    config: Any = decoder.config
    stack = getattr(decoder, decoder.base_model_prefix)
    activation = ACT2FN[config.hidden_act]
    head_dim = config.hidden_size // config.num_attention_heads
    positions = _positions(stack.embeddings.position_embeddings)
    return Decoder(
        embeddings=_embeddings(stack, positions),
        layers=tuple(_layer(layer, activation) for layer in stack.encoder.layer),
        head=_head(decoder, activation),
        num_heads=config.num_attention_heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        norm_first=False,
    )


def _positions(module: Any) -> Positions:
    pad = module.padding_idx
    if pad is None:
        return Positions(module.weight)
    # RoBERTa counts positions from padding_idx + 1. With its cache, `generate()` shows it one token
    # at a time: a pad token takes the padding row, and those after it count on.
    return Positions(module.weight, offset=pad + 1, pad_token_id=pad, pad_row=pad)


def _embeddings(stack: Any, positions: Positions) -> Embeddings:
    module = stack.embeddings
    token_type = getattr(module, "token_type_embeddings", None)
    projection = getattr(stack, "embeddings_project", None)  # ELECTRA's may be narrower
    return Embeddings(
        tokens=module.word_embeddings.weight,
        positions=positions,
        token_type=None if token_type is None else token_type.weight[0],
        norm=layer_norm(module.LayerNorm),
        projection=None if projection is None else linear(projection),
    )


def _head(decoder: Any, activation: Any) -> Head:
    if hasattr(decoder, "generator_lm_head"):  # ELECTRA
        module = decoder.generator_predictions
        transform = _head_transform(module.dense, ACT2FN["gelu"], module.LayerNorm)
        return Head(linear(decoder.generator_lm_head), transform=transform)
    if hasattr(decoder, "cls"):  # BERT
        predictions = decoder.cls.predictions
        module = predictions.transform
        transform = _head_transform(module.dense, activation, module.LayerNorm)
        return Head(linear(predictions.decoder), transform=transform)
    module = decoder.lm_head
    if hasattr(module, "dense"):  # RoBERTa
        transform = _head_transform(module.dense, ACT2FN["gelu"], module.layer_norm)
        return Head(linear(module.decoder), transform=transform)
    return Head(linear(module.decoder))


def _head_transform(dense: Any, activation: Any, norm: Any) -> HeadTransform:
    return HeadTransform(linear(dense), activation, layer_norm(norm))


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
            key_value=Linear.fuse([linear(cross.self.key), linear(cross.self.value)]),
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
