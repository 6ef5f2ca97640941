"""Generation defaults of a checkpoint + one request's overrides -> resolved, validated, frozen."""

from dataclasses import dataclass
from typing import Any, Literal

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """Everything that decides one request's tokens, fully resolved. Hashable: equal means equal work.

    Lengths count the decoder start token, as transformers does for encoder-decoders:
    `max_length = max_new_tokens + 1`, `min_length = min_new_tokens + 1`.
    """

    decoder_start_token_id: int
    pad_token_id: int
    eos_token_ids: tuple[int, ...]
    max_length: int
    min_length: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    renormalize_logits: bool = False

    def generate_kwargs(self) -> dict[str, Any]:
        """The same request as keyword arguments of transformers' `generate()`.

        Every parameter is named, so that nothing is left to the model's own generation config.
        """
        return {
            "decoder_start_token_id": self.decoder_start_token_id,
            "pad_token_id": self.pad_token_id,
            "eos_token_id": list(self.eos_token_ids) or None,
            "max_length": self.max_length,
            "max_new_tokens": None,
            "min_length": self.min_length,
            "min_new_tokens": None,
            "num_beams": self.num_beams,
            "num_return_sequences": self.num_return_sequences,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "repetition_penalty": self.repetition_penalty,
            "forced_bos_token_id": self.forced_bos_token_id,
            "forced_eos_token_id": list(self.forced_eos_token_ids) or None,
            "suppress_tokens": list(self.suppress_tokens) or None,
            "begin_suppress_tokens": None,
            "bad_words_ids": [list(word) for word in self.bad_words_ids] or None,
            "renormalize_logits": self.renormalize_logits,
            "do_sample": False,
        }
