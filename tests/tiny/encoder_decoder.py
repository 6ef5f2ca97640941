"""`EncoderDecoderModel`: an encoder and a decoder of their own."""

from typing import Any

from transformers import (
    BertConfig,
    BertGenerationConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    PreTrainedModel,
)

from tests.tiny.draw import MAX_POSITIONS, VOCAB, Builder, Spread, finish, generation_defaults


def bert_config(kind: type[Any], *, hidden: int, layers: int, decoder: bool, **extra: Any) -> Any:
    return kind(
        vocab_size=VOCAB,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=MAX_POSITIONS,
        is_decoder=decoder,
        add_cross_attention=decoder,
        **extra,
    )


def encoder_decoder(encoder: Any, decoder: Any, **special: int) -> EncoderDecoderModel:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder,
        decoder,
        decoder_start_token_id=special["bos"],
        pad_token_id=special["pad"],
        eos_token_id=special["eos"],
    )
    return EncoderDecoderModel(config=config)


def bert_generation_defaults() -> GenerationConfig:
    return generation_defaults(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3)


def _bert2bert() -> PreTrainedModel:
    model = encoder_decoder(
        bert_config(BertConfig, hidden=32, layers=3, decoder=False),
        bert_config(BertConfig, hidden=32, layers=2, decoder=True),
        bos=2,
        pad=0,
        eos=3,
    )
    return finish(
        model,
        Spread(
            seed=860,
            token=0.5,
            position=2,
            query=3,
            value=0.7,
            cross=0.7,
            feed_forward=1.0,
            bias=0.1,
            head=3.0,
            sharpness=3.0,
            eos=2.0,
            eos_bias=-1,
        ),
        bert_generation_defaults(),
    )


def _bert2bert_projected() -> PreTrainedModel:
    model = encoder_decoder(
        bert_config(BertConfig, hidden=48, layers=2, decoder=False),
        bert_config(BertConfig, hidden=32, layers=2, decoder=True),
        bos=2,
        pad=0,
        eos=3,
    )
    return finish(
        model,
        Spread(
            seed=220,
            token=0.8,
            position=3,
            query=2,
            value=0.7,
            cross=1,
            feed_forward=1.0,
            bias=0.1,
            head=1.0,
            sharpness=2.0,
            eos=1.2,
            eos_bias=2,
        ),
        bert_generation_defaults(),
    )


def _bert_generation() -> PreTrainedModel:
    model = encoder_decoder(
        bert_config(BertGenerationConfig, hidden=32, layers=2, decoder=False),
        bert_config(BertGenerationConfig, hidden=32, layers=2, decoder=True),
        bos=2,
        pad=0,
        eos=1,
    )
    generation = generation_defaults(decoder_start_token_id=2, pad_token_id=0, eos_token_id=1)
    return finish(
        model,
        Spread(
            seed=908,
            token=0.3,
            position=1.5,
            query=3,
            value=0.5,
            cross=1,
            feed_forward=4,
            bias=0.1,
            head=3.0,
            sharpness=6.0,
            eos=2.2,
            eos_bias=0,
        ),
        generation,
    )


LEAN: dict[str, Builder] = {
    "bert2bert": _bert2bert,
    "bert2bert-projected": _bert2bert_projected,
    "bert-generation": _bert_generation,
}
