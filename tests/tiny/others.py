"""What has no lean decoder: served through `generate()`, or refused as decoder-only."""

from typing import Any

from transformers import (
    FSMTConfig,
    FSMTForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    NllbMoeConfig,
    NllbMoeForConditionalGeneration,
    PegasusXConfig,
    PegasusXForConditionalGeneration,
    PreTrainedModel,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    SeamlessM4TConfig,
    SeamlessM4TForTextToText,
    SeamlessM4Tv2Config,
    SeamlessM4Tv2ForTextToText,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

from tests.tiny.bart import bart_sizes
from tests.tiny.draw import MAX_POSITIONS, VOCAB, Builder, Spread, finish, generation_defaults
from tests.tiny.t5 import t5_sizes

NUM_EXPERTS = 4


def _prophetnet() -> PreTrainedModel:
    model = ProphetNetForConditionalGeneration(
        ProphetNetConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_encoder_layers=2,
            num_decoder_layers=2,
            num_encoder_attention_heads=4,
            num_decoder_attention_heads=4,
            max_position_embeddings=MAX_POSITIONS,
            decoder_start_token_id=2,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
        )
    )
    return finish(
        model,
        Spread(
            seed=274,
            token=1.2,
            position=1.5,
            query=1.5,
            value=0.7,
            cross=0.7,
            feed_forward=4,
            bias=0.3,
            head=1.0,
            sharpness=6.0,
            eos=2.2,
            eos_bias=2,
        ),
        generation_defaults(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3),
    )


def _fsmt() -> PreTrainedModel:
    sizes = bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2)
    del sizes["vocab_size"]
    model = FSMTForConditionalGeneration(
        FSMTConfig(**sizes, langs=["en", "de"], src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    )
    generation = generation_defaults(
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        forced_eos_token_id=2,
        num_beams=5,
    )
    return finish(
        model,
        Spread(
            seed=672,
            token=0.5,
            position=1.5,
            query=4,
            value=1,
            cross=2,
            feed_forward=4,
            bias=0.1,
            head=1,
            sharpness=3,
            eos=1.8,
            eos_bias=0,
        ),
        generation,
    )


def _pegasus_x() -> PreTrainedModel:
    model = PegasusXForConditionalGeneration(
        PegasusXConfig(
            **bart_sizes(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0),
            num_global_tokens=3,
            block_size=4,
        )
    )
    generation = generation_defaults(
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, forced_eos_token_id=1, num_beams=8
    )
    return finish(
        model,
        Spread(
            seed=395,
            token=1.2,
            position=0.5,
            query=2,
            value=2,
            cross=1.5,
            feed_forward=4,
            bias=0.3,
            head=3,
            sharpness=3,
            eos=2.6,
            eos_bias=0,
        ),
        generation,
    )


def _nllb_moe() -> PreTrainedModel:
    model = NllbMoeForConditionalGeneration(
        NllbMoeConfig(
            **bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2, scale_embedding=True),
            num_experts=NUM_EXPERTS,
            encoder_sparse_step=2,
            decoder_sparse_step=2,
            moe_eval_capacity_token_fraction=0.3,  # tokens over it are dropped
        )
    )
    generation = generation_defaults(
        decoder_start_token_id=2, bos_token_id=0, pad_token_id=1, eos_token_id=2, num_beams=4
    )
    return finish(
        model,
        Spread(
            seed=658,
            token=0.5,
            position=0.5,
            query=4,
            value=1,
            cross=0.7,
            feed_forward=3,
            bias=0.1,
            head=2,
            sharpness=3,
            eos=1.4,
            eos_bias=0,
        ),
        generation,
    )


def _switch() -> PreTrainedModel:
    sizes = t5_sizes(num_sparse_encoder_layers=1, num_sparse_decoder_layers=1)
    model = SwitchTransformersForConditionalGeneration(
        SwitchTransformersConfig(**sizes, num_experts=NUM_EXPERTS, expert_capacity=4)
    )
    return finish(
        model,
        Spread(
            seed=371,
            token=0.3,
            position=1.5,
            query=3,
            value=2,
            cross=0.7,
            feed_forward=3,
            bias=0.3,
            head=2,
            sharpness=3,
            eos=1.4,
            eos_bias=-1,
        ),
        _t5_like_defaults(),
    )


def _t5_like_defaults(**defaults: Any) -> Any:
    return generation_defaults(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **defaults)


def _gemma_sizes() -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "max_position_embeddings": MAX_POSITIONS,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    }


def _gemma_defaults() -> Any:
    return generation_defaults(
        decoder_start_token_id=2, bos_token_id=2, pad_token_id=0, eos_token_id=1
    )


def _t5gemma() -> PreTrainedModel:
    config = T5GemmaConfig(encoder=_gemma_sizes(), decoder=_gemma_sizes(), vocab_size=VOCAB)
    return finish(
        T5GemmaForConditionalGeneration(config),
        Spread(
            seed=171,
            token=0.2,
            position=0.5,
            query=3,
            value=0.7,
            cross=4,
            feed_forward=2,
            bias=0.1,
            head=1,
            sharpness=6,
            eos=2.2,
            eos_bias=2,
        ),
        _gemma_defaults(),
    )


def _t5gemma2() -> PreTrainedModel:
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    special = {"boi_token_index": 120, "eoi_token_index": 121, "image_token_index": 122}
    encoder = {"text_config": _gemma_sizes(), "vision_config": vision, "mm_tokens_per_image": 4}
    config = T5Gemma2Config(
        encoder=encoder | special,
        decoder=_gemma_sizes(),
        image_token_index=122,
        eoi_token_index=121,
    )
    return finish(
        T5Gemma2ForConditionalGeneration(config),
        Spread(
            seed=331,
            token=0.2,
            position=0.3,
            query=4,
            value=1.5,
            cross=1.5,
            feed_forward=3,
            bias=0.3,
            head=2,
            sharpness=3,
            eos=2.6,
            eos_bias=2,
        ),
        _gemma_defaults(),
    )


def _seamless_sizes() -> dict[str, Any]:
    sizes = bart_sizes(
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        scale_embedding=True,
    )
    return {**sizes, "hidden_size": sizes.pop("d_model")}


def _seamless_defaults() -> Any:
    return generation_defaults(
        decoder_start_token_id=3, bos_token_id=2, pad_token_id=0, eos_token_id=3, num_beams=5
    )


def _seamless_m4t() -> PreTrainedModel:
    model = SeamlessM4TForTextToText(SeamlessM4TConfig(**_seamless_sizes()))
    return finish(
        model,
        Spread(
            seed=339,
            token=0.2,
            position=2,
            query=4,
            value=1,
            cross=1,
            feed_forward=4,
            bias=0.2,
            head=3,
            sharpness=3,
            eos=2.6,
            eos_bias=0,
        ),
        _seamless_defaults(),
    )


def _seamless_m4t_v2() -> PreTrainedModel:
    model = SeamlessM4Tv2ForTextToText(SeamlessM4Tv2Config(**_seamless_sizes()))
    return finish(
        model,
        Spread(
            seed=339,
            token=0.2,
            position=2,
            query=4,
            value=1,
            cross=1,
            feed_forward=4,
            bias=0.2,
            head=3,
            sharpness=3,
            eos=2.6,
            eos_bias=0,
        ),
        _seamless_defaults(),
    )


def _gpt2() -> PreTrainedModel:
    model = GPT2LMHeadModel(
        GPT2Config(
            bos_token_id=0,
            eos_token_id=0,
            vocab_size=VOCAB,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=MAX_POSITIONS,
        )
    )
    generation = generation_defaults(eos_token_id=2, pad_token_id=1)
    return finish(model, Spread(), generation)


FALLBACK: dict[str, Builder] = {
    "prophetnet": _prophetnet,
    "fsmt": _fsmt,
    "pegasus-x": _pegasus_x,
    "nllb-moe": _nllb_moe,
    "switch": _switch,
    "t5gemma": _t5gemma,
    "t5gemma2": _t5gemma2,
    "seamless-m4t": _seamless_m4t,
    "seamless-m4t-v2": _seamless_m4t_v2,
}
DECODER_ONLY: dict[str, Builder] = {"gpt2": _gpt2}
