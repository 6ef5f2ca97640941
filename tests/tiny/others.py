"""What has no lean decoder: served through `generate()`, or refused as decoder-only."""

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
)

from tests.tiny.draw import MAX_POSITIONS, VOCAB, Builder, Spread, finish, generation_defaults


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


FALLBACK: dict[str, Builder] = {"prophetnet": _prophetnet}
DECODER_ONLY: dict[str, Builder] = {"gpt2": _gpt2}
