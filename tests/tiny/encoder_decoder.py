"""`EncoderDecoderModel`: an encoder and a decoder of their own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertGenerationConfig,
    CamembertConfig,
    ElectraConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    GPT2Config,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

from tests.tiny.draw import MAX_POSITIONS, VOCAB, Builder, Spread, finish, generation_defaults

GPT2_VOCAB = 140
GPT2_PAD = GPT2_VOCAB - 1  # no token of the encoder


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


def _pair(encoder: Any, decoder: Any, spread: Spread, **special: int) -> EncoderDecoderModel:
    """A pair with special tokens `bos`, `pad` and `eos`, drawn and with generation defaults."""
    model = encoder_decoder(encoder, decoder, **special)
    generation = generation_defaults(
        decoder_start_token_id=special["bos"],
        pad_token_id=special["pad"],
        eos_token_id=special["eos"],
    )
    finish(model, spread, generation)
    return model


@torch.no_grad()
def _share(model: EncoderDecoderModel) -> EncoderDecoderModel:
    """Equal weights on both sides, as in files that transformers 4 wrote of tied pairs."""
    model.config.tie_encoder_decoder = True
    encoder: Any = model.encoder
    decoder: Any = getattr(model.decoder, model.decoder.base_model_prefix)
    source = dict(decoder.named_parameters())
    for name, parameter in encoder.named_parameters():
        if name in source:
            parameter.copy_(source[name])
    return model


def _kin(kind: type[Any], spread: Spread, **extra: Any) -> EncoderDecoderModel:
    """A pair of two configurations of one kind with RoBERTa's special tokens."""
    encoder = bert_config(kind, hidden=32, layers=2, decoder=False, **extra)
    decoder = bert_config(kind, hidden=32, layers=2, decoder=True, **extra)
    return _pair(encoder, decoder, spread, bos=0, pad=1, eos=2)


def _bert2bert_tied(spread: Spread) -> PreTrainedModel:
    encoder = bert_config(BertConfig, hidden=32, layers=2, decoder=False)
    decoder = bert_config(BertConfig, hidden=32, layers=2, decoder=True)
    return _share(_pair(encoder, decoder, spread, bos=2, pad=0, eos=3))


def _roberta2roberta(spread: Spread) -> PreTrainedModel:
    return _share(_kin(RobertaConfig, spread, type_vocab_size=1))


def _electra2electra(spread: Spread) -> PreTrainedModel:
    encoder = bert_config(ElectraConfig, hidden=32, layers=2, decoder=False, embedding_size=20)
    decoder = bert_config(ElectraConfig, hidden=32, layers=2, decoder=True, embedding_size=20)
    return _pair(encoder, decoder, spread, bos=2, pad=0, eos=3)


def _bert2gpt2(spread: Spread) -> PreTrainedModel:
    decoder = GPT2Config(
        vocab_size=GPT2_VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=48,
        n_positions=MAX_POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
    )
    encoder = bert_config(BertConfig, hidden=40, layers=2, decoder=False)
    return _pair(encoder, decoder, spread, bos=0, pad=GPT2_PAD, eos=0)


def _bert2roberta(spread: Spread) -> PreTrainedModel:
    encoder = bert_config(BertConfig, hidden=32, layers=2, decoder=False)
    decoder = bert_config(RobertaConfig, hidden=32, layers=2, decoder=True)
    return _pair(encoder, decoder, spread, bos=0, pad=1, eos=2)


def _xlmr2xlmr(spread: Spread) -> PreTrainedModel:
    return _kin(XLMRobertaConfig, spread, type_vocab_size=1)


def _camembert2camembert(spread: Spread) -> PreTrainedModel:
    return _kin(CamembertConfig, spread, type_vocab_size=1)


_PAIRS: dict[str, tuple[Callable[[Spread], PreTrainedModel], Spread]] = {
    "bert2bert-tied": (
        _bert2bert_tied,
        Spread(
            seed=917,
            token=0.8,
            position=3,
            query=2,
            value=1,
            cross=1.5,
            feed_forward=4,
            bias=0.2,
            head=3,
            sharpness=1.0,
            eos=2.4,
            eos_bias=0,
        ),
    ),
    "roberta2roberta": (
        _roberta2roberta,
        Spread(
            seed=665,
            token=0.2,
            position=2,
            query=2,
            value=1.5,
            cross=0.7,
            feed_forward=2,
            bias=0.2,
            head=2,
            sharpness=2.0,
            eos=2.0,
            eos_bias=0,
        ),
    ),
    "electra2electra": (
        _electra2electra,
        Spread(
            seed=693,
            token=0.3,
            position=2,
            query=3,
            value=0.5,
            cross=2,
            feed_forward=1,
            bias=0.1,
            head=3,
            sharpness=3.0,
            eos=1.2,
            eos_bias=1,
        ),
    ),
    "bert2gpt2": (
        _bert2gpt2,
        Spread(
            seed=693,
            token=0.3,
            position=2,
            query=3,
            value=0.5,
            cross=2,
            feed_forward=1,
            bias=0.1,
            head=3,
            sharpness=3.0,
            eos=1.2,
            eos_bias=1,
        ),
    ),
    "bert2roberta": (
        _bert2roberta,
        Spread(
            seed=102,
            token=0.8,
            position=2,
            query=1.5,
            value=1.5,
            cross=0.7,
            feed_forward=1,
            bias=0.2,
            head=1,
            sharpness=6.0,
            eos=1.6,
            eos_bias=1,
        ),
    ),
    "xlmr2xlmr": (
        _xlmr2xlmr,
        Spread(
            seed=116,
            token=0.2,
            position=1.5,
            query=4,
            value=1,
            cross=2,
            feed_forward=2,
            bias=0.2,
            head=1,
            sharpness=3.0,
            eos=1.6,
            eos_bias=2,
        ),
    ),
    "camembert2camembert": (
        _camembert2camembert,
        Spread(
            seed=492,
            token=0.5,
            position=0.5,
            query=4,
            value=1.5,
            cross=1,
            feed_forward=1,
            bias=0.2,
            head=1,
            sharpness=3.0,
            eos=2.4,
            eos_bias=-1,
        ),
    ),
}

LEAN: dict[str, Builder] = {
    "bert2bert": _bert2bert,
    "bert2bert-projected": _bert2bert_projected,
    "bert-generation": _bert_generation,
    **{name: partial(build, spread) for name, (build, spread) in _PAIRS.items()},
}
