"""The decoder of an `EncoderDecoderModel` that is GPT-2."""

from typing import Any

from transformers import PreTrainedModel

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


def build_gpt2_decoder(model: PreTrainedModel) -> Decoder:
    """The lean decoder of an `EncoderDecoderModel` whose decoder is GPT-2.

    `reorder_and_upcast_attn` needs nothing: it is for attention in half precision.
    """
    decoder: Any = model.decoder
    config: Any = decoder.config
    stack = decoder.transformer
    head_dim = config.hidden_size // config.num_attention_heads
    return Decoder(
        embeddings=Embeddings(stack.wte.weight, positions=Positions(stack.wpe.weight)),
        layers=tuple(_layer(block) for block in stack.h),
        head=Head(linear(decoder.lm_head)),
        num_heads=config.num_attention_heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5 if config.scale_attn_weights else 1.0,
        norm_first=True,
        final_norm=layer_norm(stack.ln_f),
    )


def _layer(block: Any) -> DecoderLayer:
    own, cross, feed_forward = block.attn, block.crossattention, block.mlp
    query, key, value = _split(own.c_attn, 3)
    return DecoderLayer(
        self_attention=SelfAttention(
            query_key_value=Linear.fuse([_scaled(query, own), key, value]),
            output=_transposed(own.c_proj),
            norm=layer_norm(block.ln_1),
        ),
        cross_attention=CrossAttention(
            query=_scaled(_transposed(cross.q_attn), cross),
            key_value=_transposed(cross.c_attn),
            output=_transposed(cross.c_proj),
            norm=layer_norm(block.ln_cross_attn),
        ),
        feed_forward=FeedForward(
            up=_transposed(feed_forward.c_fc),
            down=_transposed(feed_forward.c_proj),
            activation=feed_forward.act,
            norm=layer_norm(block.ln_2),
        ),
    )


def _transposed(module: Any) -> Linear:
    """A `Conv1D`, whose weight is [in, out], shared."""
    return Linear(module.weight.T, module.bias)


def _split(module: Any, num_parts: int) -> list[Linear]:
    """Projections that lie side by side in one `Conv1D`."""
    weights = module.weight.T.chunk(num_parts)
    return [
        Linear(weight, bias)
        for weight, bias in zip(weights, module.bias.chunk(num_parts), strict=True)
    ]


def _scaled(query: Linear, attention: Any) -> Linear:
    """The query with what `scale_attn_by_inverse_layer_idx` takes from the scores of its layer."""
    if not attention.scale_attn_by_inverse_layer_idx:
        return query
    assert query.bias is not None
    num_layers = attention.layer_idx + 1
    return Linear(query.weight / num_layers, query.bias / num_layers)
