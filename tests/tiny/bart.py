"""BART and what decodes like it."""

from typing import Any

from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BigBirdPegasusConfig,
    BigBirdPegasusForConditionalGeneration,
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    GenerationConfig,
    LEDConfig,
    LEDForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MvpConfig,
    MvpForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PLBartConfig,
    PLBartForConditionalGeneration,
    PreTrainedModel,
)

from tests.tiny.draw import MAX_POSITIONS, VOCAB, Builder, Spread, finish, generation_defaults

M2M100_VOCAB = 200  # its tokenizer brings 100 languages and 8 made-up words of its own
MBART_GERMAN = 97


def bart_sizes(**extra: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": MAX_POSITIONS,
        **extra,
    }


def _bart() -> PreTrainedModel:
    model = BartForConditionalGeneration(
        BartConfig(**bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2))
    )
    generation = generation_defaults(
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        no_repeat_ngram_size=3,
        num_beams=4,
        early_stopping=True,
    )
    return finish(
        model,
        Spread(
            seed=338,
            token=0.3,
            position=0.5,
            query=3,
            value=1.5,
            cross=0.7,
            feed_forward=1.0,
            bias=0.1,
            head=1.0,
            sharpness=2.0,
            eos=2.0,
            eos_bias=2,
        ),
        generation,
    )


def _mbart() -> PreTrainedModel:
    model = MBartForConditionalGeneration(
        MBartConfig(
            **bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2, scale_embedding=True)
        )
    )
    generation = generation_defaults(
        decoder_start_token_id=MBART_GERMAN,
        pad_token_id=1,
        eos_token_id=2,
        num_beams=5,
        early_stopping=True,
    )
    return finish(
        model,
        Spread(
            seed=861,
            token=0.5,
            position=1.5,
            query=3,
            value=1,
            cross=4,
            feed_forward=2,
            bias=0.1,
            head=3.0,
            sharpness=2.0,
            eos=2.0,
            eos_bias=2,
        ),
        generation,
    )


def _marian() -> PreTrainedModel:
    pad = VOCAB - 1
    model = MarianMTModel(
        MarianConfig(
            **bart_sizes(
                pad_token_id=pad,
                eos_token_id=0,
                decoder_start_token_id=pad,
                scale_embedding=True,
                activation_function="swish",
            )
        )
    )
    generation = generation_defaults(
        decoder_start_token_id=pad,
        pad_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
        bad_words_ids=[[pad]],
        num_beams=4,
        renormalize_logits=True,  # as the published Marian checkpoints have it,
    )
    return finish(
        model,
        Spread(
            seed=266,
            token=0.5,
            position=0.3,
            query=1.5,
            value=0.5,
            cross=0.7,
            feed_forward=3,
            bias=0.1,
            head=2.0,
            sharpness=6.0,
            eos=2.2,
            eos_bias=-1,
        ),
        generation,
    )


def _m2m100_model(vocab: int, spread: Spread) -> PreTrainedModel:
    model = M2M100ForConditionalGeneration(
        M2M100Config(
            **bart_sizes(
                vocab_size=vocab,
                bos_token_id=0,
                pad_token_id=1,
                eos_token_id=2,
                scale_embedding=True,
            )
        )
    )
    generation = generation_defaults(
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        num_beams=5,
        early_stopping=True,
    )
    return finish(model, spread, generation)


def _m2m100() -> PreTrainedModel:
    return _m2m100_model(
        M2M100_VOCAB,
        Spread(
            seed=775,
            token=0.5,
            position=1.5,
            query=4,
            value=0.5,
            cross=1.5,
            feed_forward=4,
            bias=0.2,
            head=1.0,
            sharpness=2.0,
            eos=2.0,
            eos_bias=0,
        ),
    )


def _nllb() -> PreTrainedModel:
    return _m2m100_model(
        VOCAB,
        Spread(
            seed=130,
            token=0.2,
            position=1.5,
            query=3,
            value=1.5,
            cross=1,
            feed_forward=3,
            bias=0.1,
            head=3.0,
            sharpness=6.0,
            eos=2.6,
            eos_bias=0,
        ),
    )


def _pegasus() -> PreTrainedModel:
    model = PegasusForConditionalGeneration(
        PegasusConfig(
            **bart_sizes(
                pad_token_id=0, eos_token_id=1, scale_embedding=True, activation_function="relu"
            )
        )
    )
    generation = generation_defaults(
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        forced_eos_token_id=1,
        num_beams=8,
        length_penalty=0.8,
    )
    return finish(
        model,
        Spread(
            seed=151,
            token=0.5,
            position=0.3,
            query=2,
            value=0.5,
            cross=0.7,
            feed_forward=4,
            bias=0.1,
            head=2.0,
            sharpness=1.0,
            eos=2.2,
            eos_bias=-1,
        ),
        generation,
    )


def _bigbird_pegasus() -> PreTrainedModel:
    model = BigBirdPegasusForConditionalGeneration(
        BigBirdPegasusConfig(
            **bart_sizes(
                pad_token_id=0,
                eos_token_id=1,
                decoder_start_token_id=2,
                scale_embedding=True,
                block_size=2,
                num_random_blocks=1,  # sources of more than 14 tokens are attended to in blocks
            )
        )
    )
    generation = generation_defaults(
        decoder_start_token_id=2,
        bos_token_id=2,
        pad_token_id=0,
        eos_token_id=1,
        num_beams=5,
        length_penalty=0.8,
    )
    return finish(
        model,
        Spread(
            seed=96,
            token=0.8,
            position=0.3,
            query=4,
            value=1.5,
            cross=4,
            feed_forward=1,
            bias=0.3,
            head=2,
            sharpness=3,
            eos=2.2,
            eos_bias=-1,
        ),
        generation,
    )


def _blenderbot() -> PreTrainedModel:
    model = BlenderbotForConditionalGeneration(
        BlenderbotConfig(
            **bart_sizes(pad_token_id=0, bos_token_id=1, eos_token_id=2, scale_embedding=True)
        )
    )
    generation = generation_defaults(
        decoder_start_token_id=1,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=2,
        forced_eos_token_id=2,
        min_length=3,
        num_beams=10,
        length_penalty=0.65,
    )
    return finish(
        model,
        Spread(
            seed=29,
            token=1.2,
            position=0.5,
            query=4,
            value=1.5,
            cross=4,
            feed_forward=2,
            bias=0.2,
            head=1,
            sharpness=2,
            eos=2.6,
            eos_bias=0,
        ),
        generation,
    )


def _blenderbot_small() -> PreTrainedModel:
    model = BlenderbotSmallForConditionalGeneration(
        BlenderbotSmallConfig(
            **bart_sizes(pad_token_id=0, bos_token_id=1, eos_token_id=2, scale_embedding=True)
        )
    )
    generation = generation_defaults(
        decoder_start_token_id=1,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=2,
        forced_eos_token_id=2,
        num_beams=10,
        length_penalty=0.65,
        no_repeat_ngram_size=3,
    )
    return finish(
        model,
        Spread(
            seed=103,
            token=1.2,
            position=3,
            query=1.5,
            value=0.7,
            cross=1,
            feed_forward=1,
            bias=0.1,
            head=2,
            sharpness=1,
            eos=1.6,
            eos_bias=2,
        ),
        generation,
    )


def _like_bart_defaults(**defaults: Any) -> GenerationConfig:
    return generation_defaults(
        decoder_start_token_id=2, bos_token_id=0, pad_token_id=1, eos_token_id=2, **defaults
    )


def _led() -> PreTrainedModel:
    sizes = bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2)
    del sizes["max_position_embeddings"]
    model = LEDForConditionalGeneration(
        LEDConfig(
            **sizes,
            max_encoder_position_embeddings=MAX_POSITIONS,
            max_decoder_position_embeddings=MAX_POSITIONS,
            attention_window=4,
        )
    )
    generation = _like_bart_defaults(num_beams=4, length_penalty=2.0, early_stopping=True)
    return finish(
        model,
        Spread(
            seed=994,
            token=0.8,
            position=2,
            query=4,
            value=0.7,
            cross=1.5,
            feed_forward=4,
            bias=0.1,
            head=3,
            sharpness=6,
            eos=1.4,
            eos_bias=-1,
        ),
        generation,
    )


def _mvp() -> PreTrainedModel:
    model = MvpForConditionalGeneration(
        MvpConfig(**bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2))
    )
    generation = _like_bart_defaults(
        forced_bos_token_id=0, forced_eos_token_id=2, num_beams=5, no_repeat_ngram_size=3
    )
    return finish(
        model,
        Spread(
            seed=931,
            token=0.5,
            position=3,
            query=3,
            value=1.5,
            cross=1.5,
            feed_forward=1,
            bias=0.1,
            head=3,
            sharpness=3,
            eos=1.2,
            eos_bias=-1,
        ),
        generation,
    )


def _mvp_prompt() -> PreTrainedModel:
    model = MvpForConditionalGeneration(
        MvpConfig(
            **bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2),
            use_prompt=True,
            prompt_length=5,
            prompt_mid_dim=24,
        )
    )
    return finish(
        model,
        Spread(
            seed=96,
            token=0.8,
            position=0.3,
            query=4,
            value=1.5,
            cross=4,
            feed_forward=1,
            bias=0.3,
            head=2,
            sharpness=3,
            eos=2.2,
            eos_bias=-1,
        ),
        _like_bart_defaults(num_beams=5),
    )


def _plbart() -> PreTrainedModel:
    model = PLBartForConditionalGeneration(
        PLBartConfig(
            **bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2, scale_embedding=True)
        )
    )
    return finish(
        model,
        Spread(
            seed=469,
            token=0.8,
            position=0.3,
            query=4,
            value=0.5,
            cross=0.7,
            feed_forward=3,
            bias=0.2,
            head=3,
            sharpness=2,
            eos=2.2,
            eos_bias=-1,
        ),
        _like_bart_defaults(num_beams=4, early_stopping=True),
    )


LEAN: dict[str, Builder] = {
    "bart": _bart,
    "mbart": _mbart,
    "marian": _marian,
    "m2m100": _m2m100,
    "nllb": _nllb,
    "pegasus": _pegasus,
    "bigbird-pegasus": _bigbird_pegasus,
    "blenderbot": _blenderbot,
    "blenderbot-small": _blenderbot_small,
    "led": _led,
    "mvp": _mvp,
    "plbart": _plbart,
}
FALLBACK: dict[str, Builder] = {"mvp-prompt": _mvp_prompt}
