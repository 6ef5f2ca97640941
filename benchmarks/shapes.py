"""Models in the shapes of well-known checkpoints, with random weights.

transformers is imported where a model is built: a load generator needs only the vocabularies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EOS = 0
BOS = 3
UNK = 4
FIRST_WORD = 5
"""Tokens from here on, apart from the padding, are ordinary words."""


@dataclass(frozen=True)
class Shape:
    """What a checkpoint is made of.

    Attributes:
        vocab_size: Of sources and targets.
        pad_token_id: No source has it.
        build: Makes the model; its weights are drawn from torch's default generator.
    """

    vocab_size: int
    pad_token_id: int
    build: Callable[["Shape"], "PreTrainedModel"]

    @property
    def words(self) -> range:
        """Tokens that sources are made of."""
        return range(FIRST_WORD, self.vocab_size - 1)


def bart_like(width: int, num_layers: int, ffn: int, heads: int) -> "Callable[[Shape], Any]":
    """A builder of BART: norms after the blocks, an embedding norm, learned positions."""

    def build(shape: Shape) -> "PreTrainedModel":
        from transformers import BartConfig, BartForConditionalGeneration

        config: Any = BartConfig
        return BartForConditionalGeneration(
            config(
                **_sizes(shape, width, num_layers, ffn, heads),
                max_position_embeddings=1024,
                bos_token_id=BOS,
                decoder_start_token_id=EOS,
                forced_eos_token_id=None,
            )
        )

    return build


def marian_like(width: int, num_layers: int, ffn: int, heads: int) -> "Callable[[Shape], Any]":
    """A builder of Marian: no embedding norm, sinusoidal positions, targets start with padding."""

    def build(shape: Shape) -> "PreTrainedModel":
        from transformers import MarianConfig, MarianMTModel

        config: Any = MarianConfig
        return MarianMTModel(
            config(
                **_sizes(shape, width, num_layers, ffn, heads),
                max_position_embeddings=512,
                scale_embedding=True,
                activation_function="swish",
                decoder_start_token_id=shape.pad_token_id,
                forced_eos_token_id=None,
            )
        )

    return build


def bert2bert_like(width: int, num_layers: int, ffn: int, heads: int) -> "Callable[[Shape], Any]":
    """A builder of an `EncoderDecoderModel` of two BERTs."""

    def build(shape: Shape) -> "PreTrainedModel":
        from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel

        sizes: dict[str, Any] = {
            "vocab_size": shape.vocab_size,
            "hidden_size": width,
            "num_hidden_layers": num_layers,
            "intermediate_size": ffn,
            "num_attention_heads": heads,
        }
        config = EncoderDecoderConfig.from_encoder_decoder_configs(
            BertConfig(**sizes),
            BertConfig(**sizes, is_decoder=True, add_cross_attention=True),
            decoder_start_token_id=BOS,
            pad_token_id=shape.pad_token_id,
            eos_token_id=EOS,
        )
        return EncoderDecoderModel(config=config)

    return build


def _sizes(shape: Shape, width: int, num_layers: int, ffn: int, heads: int) -> dict[str, Any]:
    """What the configurations of BART and Marian share."""
    return {
        "vocab_size": shape.vocab_size,
        "d_model": width,
        "encoder_layers": num_layers,
        "decoder_layers": num_layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "decoder_ffn_dim": ffn,
        "pad_token_id": shape.pad_token_id,
        "eos_token_id": EOS,
    }


SHAPES: dict[str, Shape] = {
    "opus-mt": Shape(58_101, 58_100, marian_like(512, 6, 2048, 8)),
    "bart-base": Shape(50_265, 2, bart_like(768, 6, 3072, 12)),
    "bart-large": Shape(50_264, 2, bart_like(1024, 12, 4096, 16)),
    "bert2bert": Shape(30_522, 1, bert2bert_like(768, 12, 3072, 12)),
}
