"""T5 and what decodes like it."""

from typing import Any

from transformers import (
    GenerationConfig,
    LongT5Config,
    LongT5ForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from tests.tiny.draw import VOCAB, Builder, Spread, finish, generation_defaults

BYT5_VOCAB = 384  # bytes, special tokens and 125 of its tokenizer's own


def t5_sizes(**extra: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "d_model": 32,
        "d_kv": 12,  # 4 heads of 12 are not d_model
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **extra,
    }


def _t5_generation_defaults() -> GenerationConfig:
    return generation_defaults(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)


def _t5() -> PreTrainedModel:
    model = T5ForConditionalGeneration(
        T5Config(**t5_sizes(feed_forward_proj="relu", tie_word_embeddings=True))
    )
    return finish(
        model,
        Spread(
            seed=833,
            token=0.5,
            position=3,
            query=1.5,
            value=2,
            cross=1.5,
            feed_forward=3,
            bias=0.2,
            head=3.0,
            sharpness=2.0,
            eos=2.0,
            eos_bias=2,
        ),
        _t5_generation_defaults(),
    )


def _t5_gated() -> PreTrainedModel:
    model = T5ForConditionalGeneration(
        T5Config(
            **t5_sizes(num_layers=3, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
        )
    )
    return finish(
        model,
        Spread(
            seed=529,
            token=0.8,
            position=3,
            query=2,
            value=0.7,
            cross=2,
            feed_forward=4,
            bias=0.3,
            head=3.0,
            sharpness=2.0,
            eos=1.8,
            eos_bias=-1,
        ),
        _t5_generation_defaults(),
    )


def _mt5() -> PreTrainedModel:
    model = MT5ForConditionalGeneration(
        MT5Config(**t5_sizes(d_kv=8, feed_forward_proj="gated-gelu", tie_word_embeddings=False))
    )
    return finish(
        model,
        Spread(
            seed=861,
            token=1.2,
            position=3,
            query=2,
            value=1,
            cross=0.7,
            feed_forward=6,
            bias=0.1,
            head=1.0,
            sharpness=6.0,
            eos=1.4,
            eos_bias=-1,
        ),
        _t5_generation_defaults(),
    )


def _umt5() -> PreTrainedModel:
    model = UMT5ForConditionalGeneration(UMT5Config(**t5_sizes()))
    return finish(
        model,
        Spread(
            seed=340,
            token=1.2,
            position=2,
            query=2,
            value=1,
            cross=1.5,
            feed_forward=4,
            bias=0.3,
            head=2,
            sharpness=1,
            eos=1.8,
            eos_bias=-1,
        ),
        _t5_generation_defaults(),
    )


def _byt5() -> PreTrainedModel:
    sizes = t5_sizes(vocab_size=BYT5_VOCAB, num_layers=3, feed_forward_proj="gated-gelu")
    sizes["tie_word_embeddings"] = False
    model = T5ForConditionalGeneration(T5Config(**sizes))
    return finish(
        model,
        Spread(
            seed=587,
            token=0.8,
            position=3,
            query=2,
            value=1.5,
            cross=0.7,
            feed_forward=4,
            bias=0.2,
            head=3,
            sharpness=6,
            eos=1.2,
            eos_bias=0,
        ),
        _t5_generation_defaults(),
    )


def _longt5(**extra: Any) -> PreTrainedModel:
    sizes = t5_sizes(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    return LongT5ForConditionalGeneration(LongT5Config(**sizes, local_radius=3, **extra))


def _longt5_local() -> PreTrainedModel:
    model = _longt5(encoder_attention_type="local")
    return finish(
        model,
        Spread(
            seed=340,
            token=1.2,
            position=2,
            query=2,
            value=1,
            cross=1.5,
            feed_forward=4,
            bias=0.3,
            head=2,
            sharpness=1,
            eos=1.8,
            eos_bias=-1,
        ),
        _t5_generation_defaults(),
    )


def _longt5_global() -> PreTrainedModel:
    model = _longt5(encoder_attention_type="transient-global", global_block_size=4)
    return finish(
        model,
        Spread(
            seed=137,
            token=1.2,
            position=0.3,
            query=3,
            value=0.5,
            cross=2,
            feed_forward=4,
            bias=0.2,
            head=3,
            sharpness=6,
            eos=2.6,
            eos_bias=-1,
        ),
        _t5_generation_defaults(),
    )


LEAN: dict[str, Builder] = {
    "t5": _t5,
    "t5-gated": _t5_gated,
    "mt5": _mt5,
    "umt5": _umt5,
    "byt5": _byt5,
    "longt5-local": _longt5_local,
    "longt5-global": _longt5_global,
}
