"""BART and what decodes like it."""

from typing import Any

from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
)

from tests.tiny.draw import MAX_POSITIONS, VOCAB, Builder, Spread, finish, generation_defaults

M2M100_VOCAB = 200  # its tokenizer brings 100 languages and 8 made-up words of its own
MBART_GERMAN = 97


def _bart_sizes(**extra: Any) -> dict[str, Any]:
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
        BartConfig(**_bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2))
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
            **_bart_sizes(bos_token_id=0, pad_token_id=1, eos_token_id=2, scale_embedding=True)
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
            **_bart_sizes(
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
            **_bart_sizes(
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
            **_bart_sizes(
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


LEAN: dict[str, Builder] = {
    "bart": _bart,
    "mbart": _mbart,
    "marian": _marian,
    "m2m100": _m2m100,
    "nllb": _nllb,
    "pegasus": _pegasus,
}
