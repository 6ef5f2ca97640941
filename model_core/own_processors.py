"""Logits processors that few requests ask for: the library's own, made once per request."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    ExponentialDecayLengthPenalty,
    InfNanRemoveLogitsProcessor,
    LogitsProcessor,
    MinPLogitsWarper,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from model_core.generation import GenerationParameters


@dataclass(frozen=True, slots=True)
class OwnProcessors:
    """One request's own processors, by their place among those that are vectorised.

    Each maps target tokens so far, [num_hypotheses, target_len], and scores,
    [num_hypotheses, vocab], to new scores.
    """

    first: tuple[LogitsProcessor, ...] = ()
    after_ngrams: tuple[LogitsProcessor, ...] = ()
    after_forced: tuple[LogitsProcessor, ...] = ()
    last: tuple[LogitsProcessor, ...] = ()

    @classmethod
    def build(
        cls, parameters: GenerationParameters, source_ids: Sequence[int], device: torch.device
    ) -> "OwnProcessors":
        """What a request asks for.

        Args:
            parameters: Of the request.
            source_ids: Its source tokens.
            device: Where the scores are.

        Source: `GenerationMixin._get_logits_processor`, also for the order.
        """
        source = None
        if parameters.reads_source:
            source = torch.tensor([list(source_ids)], device=device)
        return cls(
            first=tuple(_first(parameters, source)),
            after_ngrams=tuple(_after_ngrams(parameters, source)),
            after_forced=tuple(_after_forced(parameters)),
            last=tuple(_last(parameters, str(device))),
        )


def _first(parameters: GenerationParameters, source: Any) -> Iterator[LogitsProcessor]:
    if parameters.sequence_bias:
        yield SequenceBiasLogitsProcessor(
            [[list(run), bias] for run, bias in parameters.sequence_bias]
        )
    if parameters.encoder_repetition_penalty != 1.0:
        yield EncoderRepetitionPenaltyLogitsProcessor(parameters.encoder_repetition_penalty, source)


def _after_ngrams(parameters: GenerationParameters, source: Any) -> Iterator[LogitsProcessor]:
    size = parameters.encoder_no_repeat_ngram_size
    if size > 0:
        yield EncoderNoRepeatNGramLogitsProcessor(size, source)


def _after_forced(parameters: GenerationParameters) -> Iterator[LogitsProcessor]:
    if parameters.remove_invalid_values:
        yield InfNanRemoveLogitsProcessor()
    decay = parameters.exponential_decay_length_penalty
    if decay is not None:
        eos_token_ids = list(parameters.eos_token_ids)
        yield ExponentialDecayLengthPenalty(decay, eos_token_ids, parameters.prompt_len)


def _last(parameters: GenerationParameters, device: str) -> Iterator[LogitsProcessor]:
    if parameters.begin_suppress_tokens:
        # A forced BOS takes the first place that is chosen.
        is_forced = parameters.forced_bos_token_id is not None and parameters.prompt_len == 1
        begin = parameters.prompt_len + is_forced
        tokens = list(parameters.begin_suppress_tokens)
        yield SuppressTokensAtBeginLogitsProcessor(tokens, begin, device)
    if parameters.do_sample:
        yield from _warpers(parameters, device)


def _warpers(parameters: GenerationParameters, device: str) -> Iterator[LogitsProcessor]:
    """What shapes the distribution that tokens are drawn from."""
    # Beams need one candidate that does not end.
    keep = len(parameters.eos_token_ids) + 1 if parameters.num_beams > 1 else 1
    if parameters.num_beams > 1 and not parameters.eos_token_ids:
        keep = 2
    if parameters.temperature != 1.0:
        yield TemperatureLogitsWarper(parameters.temperature)
    if parameters.top_h is not None:
        yield TopHLogitsWarper(parameters.top_h)
    if parameters.top_k > 0:
        yield TopKLogitsWarper(parameters.top_k, min_tokens_to_keep=keep)
    if parameters.top_p < 1.0:
        yield TopPLogitsWarper(parameters.top_p, min_tokens_to_keep=keep)
    if parameters.min_p is not None:
        yield MinPLogitsWarper(parameters.min_p, min_tokens_to_keep=keep)
    if parameters.typical_p < 1.0:
        yield TypicalLogitsWarper(parameters.typical_p, min_tokens_to_keep=keep)
    if parameters.epsilon_cutoff > 0:
        yield EpsilonLogitsWarper(parameters.epsilon_cutoff, min_tokens_to_keep=keep)
    if parameters.eta_cutoff > 0:
        yield EtaLogitsWarper(parameters.eta_cutoff, min_tokens_to_keep=keep, device=device)
