"""Generation parameters: what somebody names of them, what a checkpoint says, what decides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from model_core.bounds import LoweredBounds

Task = Literal["translate", "summarize"]
EarlyStopping = bool | Literal["never"]
TokenIds = int | Sequence[int]
SequenceBias = tuple[tuple[tuple[int, ...], float], ...]

_REASONS: Mapping[str, tuple[str, ...]] = {
    "there is no assisted decoding: batching takes its place": (
        *("assistant_model", "assistant_tokenizer", "is_assistant", "num_assistant_tokens"),
        *("num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("assistant_early_exit", "assistant_lookbehind", "assistant_ensemble_weight"),
        *("target_lookbehind", "speculation_type", "prompt_lookup_num_tokens"),
        *("max_matching_ngram_size", "use_mtp"),
    ),
    "the server decides how it computes": (
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
        *("prefill_chunk_size", "compile_config", "disable_compile"),
        *("continuous_batching_config", "synced_gpus"),
    ),
    "answers have one form": (
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate", "streamer"),
    ),
    "it is the checkpoint's own": ("pad_token_id", "bos_token_id"),
    "transformers 5 itself has it no longer": (
        *("constraints", "force_words_ids", "num_beam_groups", "diversity_penalty"),
        *("penalty_alpha", "dola_layers"),
    ),
    "a request cannot carry code": (
        *("prefix_allowed_tokens_fn", "logits_processor", "stopping_criteria"),
        "custom_generate",
    ),
    "it needs a second, unconditional run of a decoder-only model": (
        *("guidance_scale", "negative_prompt_ids", "negative_prompt_attention_mask"),
    ),
    "it marks the server's answers, not one request's": ("watermarking_config",),
    "it mends prompts of decoder-only models": ("token_healing",),
    "use timeout_s, which ends the call with an error instead of half an answer": ("max_time",),
    "use target_prefix": ("decoder_input_ids",),
}

NOT_SERVED: Mapping[str, str] = {
    name: reason for reason, names in _REASONS.items() for name in names
}
"""Parameters of transformers' `generate()` that no request may name, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """Everything that decides one request's tokens, fully resolved.

    Hashable: equal means equal work, also where tokens are drawn, since the seed is here.

    Lengths count the prompt (the decoder start token and the target prefix), as transformers does
    for encoder-decoders: `max_length = max_new_tokens + prompt_len`.
    """

    decoder_start_token_id: int
    pad_token_id: int
    eos_token_ids: tuple[int, ...]
    max_length: int
    min_length: int = 0
    target_prefix_ids: tuple[int, ...] = ()
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    exponential_decay_length_penalty: tuple[int, float] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    sequence_bias: SequenceBias = ()
    stop_strings: tuple[str, ...] = ()
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    seed: int = 0

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Target tokens that are given, not chosen: `generate()`'s `decoder_input_ids`."""
        return (self.decoder_start_token_id, *self.target_prefix_ids)

    @property
    def prompt_len(self) -> int:
        """Target tokens that are given, the decoder start token included."""
        return 1 + len(self.target_prefix_ids)

    @property
    def num_hypotheses(self) -> int:
        """Hypotheses that are decoded side by side: the beam, or the sequences to draw."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences

    @property
    def reads_source(self) -> bool:
        """Whether source tokens decide which target tokens are likely, or allowed."""
        return self.encoder_repetition_penalty != 1.0 or self.encoder_no_repeat_ngram_size > 0

    @property
    def num_candidates(self) -> int:
        """Continuations that a beam search considers in each step: more than can end."""
        return max(2, 1 + len(self.eos_token_ids)) * self.num_beams

    def generate_kwargs(self) -> dict[str, Any]:
        """The same request as keyword arguments of transformers' `generate()`.

        Every parameter that a request may name is here, so that none is left to the model's own
        generation config. What only the checkpoint can ask for (`unserved`) stays there. What is
        no plain value is left to the caller: `decoder_input_ids`, the tokenizer that `stop_strings`
        need, and the seed.
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
            "encoder_no_repeat_ngram_size": self.encoder_no_repeat_ngram_size,
            "repetition_penalty": self.repetition_penalty,
            "encoder_repetition_penalty": self.encoder_repetition_penalty,
            "exponential_decay_length_penalty": self.exponential_decay_length_penalty,
            "forced_bos_token_id": self.forced_bos_token_id,
            "forced_eos_token_id": list(self.forced_eos_token_ids) or None,
            "suppress_tokens": list(self.suppress_tokens) or None,
            "begin_suppress_tokens": list(self.begin_suppress_tokens) or None,
            "bad_words_ids": [list(word) for word in self.bad_words_ids] or None,
            "sequence_bias": [[list(run), bias] for run, bias in self.sequence_bias] or None,
            "stop_strings": list(self.stop_strings) or None,
            "remove_invalid_values": self.remove_invalid_values,
            "renormalize_logits": self.renormalize_logits,
            "do_sample": self.do_sample,
            **(self._sampling_kwargs() if self.do_sample else {}),
        }

    def _sampling_kwargs(self) -> dict[str, Any]:
        names = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p")
        return {name: getattr(self, name) for name in (*names, "epsilon_cutoff", "eta_cutoff")}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOverrides:
    """What somebody names of the generation parameters; None means: not named.

    A request names some, a checkpoint's files name others. Names and meanings are transformers'.
    `max_new_tokens` goes before `max_length`, and `min_new_tokens` before `min_length`. An empty
    list takes back the checkpoint's. Only a request can name `target_prefix_ids` and `seed`.
    """

    decoder_start_token_id: int | None = None
    target_prefix_ids: Sequence[int] | None = None
    eos_token_id: TokenIds | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    encoder_repetition_penalty: float | None = None
    exponential_decay_length_penalty: Sequence[float] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: TokenIds | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    sequence_bias: Sequence[Sequence[Any]] | None = None
    stop_strings: str | Sequence[str] | None = None
    remove_invalid_values: bool | None = None
    renormalize_logits: bool | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    seed: int | None = None

    def over(self, other: "GenerationOverrides") -> "GenerationOverrides":
        """These, completed by `other` where nothing is named here.

        A length named here in either way hides both ways of naming it in `other`.
        """
        named = {
            each.name: value
            for each in fields(self)
            if (value := getattr(self, each.name)) is not None
        }
        hidden = dict.fromkeys(
            name for pair in _LENGTH_PAIRS if named.keys() & set(pair) for name in pair
        )
        return replace(other, **{**hidden, **named})


_LENGTH_PAIRS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """What a checkpoint says of generation, and what bounds it; see `model_core.defaults`.

    Attributes:
        values: What the checkpoint names, for whatever task.
        task_values: The same for single tasks, by the name of the task in the checkpoint's
            `task_specific_params` (`summarization`, `translation_en_to_de`).
        decoder_start_token_id: Where `values` name none.
        pad_token_id: Fills up rows of a batch.
        vocab_size: Logits of one step.
        max_target_len: Decoder positions; None where positions are relative.
        unserved: Generation features that the checkpoint asks for and the lean search lacks.
    """

    values: GenerationOverrides
    task_values: tuple[tuple[str, GenerationOverrides], ...] = ()
    decoder_start_token_id: int
    pad_token_id: int
    vocab_size: int
    max_target_len: int | None
    unserved: tuple[str, ...] = ()

    def for_task(self, name: str) -> "GenerationDefaults":
        """The defaults of one entry of `task_specific_params`; these where it has none."""
        return replace(self, values=dict(self.task_values).get(name, self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationLimits:
    """What the operator allows at most; a checkpoint's own defaults are lowered to it.

    Attributes:
        max_num_beams: Hypotheses of one request.
        max_target_len: Target tokens of one request, the decoder start token included.
        max_source_len: Source tokens of one request, where the checkpoint has more positions.
        bounds: Of every other parameter that a request names.
    """

    max_num_beams: int = 16
    max_target_len: int = 1024
    max_source_len: int = 8192
    bounds: LoweredBounds = field(default_factory=LoweredBounds)
