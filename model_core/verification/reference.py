"""What `generate()` gives one request alone, and on request how it came to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from model_core.generation import GenerationParameters
from model_core.request import FinishReason, Hypothesis

Candidate = tuple[int, ...]
"""Target tokens from the decoder start token to a token that may be chosen next."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The answer of `generate()` to one request.

    Attributes:
        model: What was asked.
        source_ids: Encoder-side tokens.
        parameters: Fully resolved.
        hypotheses: `num_return_sequences` of them. Scores are `sequences_scores`; for greedy
            search, which has none, the same formula over the log-softmax of the processed scores.
    """

    model: PreTrainedModel
    source_ids: tuple[int, ...]
    parameters: GenerationParameters
    hypotheses: tuple[Hypothesis, ...]


@dataclass(frozen=True, slots=True)
class TracedStep:
    """One step of `generate()`.

    Attributes:
        prefixes: Target tokens of every row, the decoder start token first.
        scores: [num_rows, vocab], processed: what the search saw.
        logit_scale: The largest logit.
    """

    prefixes: tuple[Candidate, ...]
    scores: Tensor
    logit_scale: float


def generate_alone(
    model: PreTrainedModel, source_ids: Sequence[int], parameters: GenerationParameters
) -> Reference:
    """The answer of `generate()` to one request, in a batch of its own."""
    result = _generate(model, source_ids, parameters)
    return Reference(model, tuple(source_ids), parameters, _hypotheses(result, parameters))


def trace(reference: Reference, nudges: Mapping[Candidate, float]) -> "Trace":
    """Ask `generate()` again, and look at every step.

    Args:
        reference: The request.
        nudges: What to add to the scores of single candidates on the way.
    """
    watch = _Watch(nudges)
    parameters = reference.parameters
    result = _generate(
        reference.model,
        reference.source_ids,
        parameters,
        logits_processor=LogitsProcessorList([watch]),
        output_logits=True,
    )
    steps = tuple(
        TracedStep(prefixes, scores.cpu(), float(logits.abs().max()))
        for prefixes, scores, logits in zip(
            watch.prefixes, result.scores, result.logits, strict=True
        )
    )
    return Trace(_hypotheses(result, parameters), steps)


@dataclass(frozen=True, slots=True)
class Trace:
    """How `generate()` came to an answer.

    Attributes:
        hypotheses: The answer.
        steps: Every step.
    """

    hypotheses: tuple[Hypothesis, ...]
    steps: tuple[TracedStep, ...]


class _Watch(LogitsProcessor):
    """Notes the rows of every step, and nudges candidates.

    `generate()` calls it after every processor but the normalisation.
    """

    def __init__(self, nudges: Mapping[Candidate, float]) -> None:
        self.prefixes: list[tuple[Candidate, ...]] = []
        self._nudges = nudges

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores with their nudges, [num_rows, vocab].

        Args:
            input_ids: [num_rows, target_len].
            scores: [num_rows, vocab].
        """
        prefixes = tuple(tuple(row) for row in input_ids.tolist())
        self.prefixes.append(prefixes)
        for (*prefix, token_id), nudge in self._nudges.items():
            rows = [row for row, each in enumerate(prefixes) if each == tuple(prefix)]
            scores[rows, token_id] += nudge
        return scores


@torch.inference_mode()
def _generate(
    model: PreTrainedModel,
    source_ids: Sequence[int],
    parameters: GenerationParameters,
    **extra: object,
) -> Any:
    source = torch.tensor([list(source_ids)], device=model.device)
    generate: Any = model.generate
    return generate(
        input_ids=source,
        attention_mask=torch.ones_like(source),
        **parameters.generate_kwargs(),
        **extra,
        return_dict_in_generate=True,
        output_scores=True,
    )


def _hypotheses(result: Any, parameters: GenerationParameters) -> tuple[Hypothesis, ...]:
    rows = [_up_to_eos(row, parameters) for row in result.sequences[:, 1:].tolist()]
    scores = (
        result.sequences_scores.tolist()
        if parameters.num_beams > 1
        else [_greedy_score(result.scores, rows[0], parameters)]
    )
    return tuple(
        Hypothesis(row, score, _finish_reason(row, parameters))
        for row, score in zip(rows, scores, strict=True)
    )


def _greedy_score(
    scores: Sequence[Tensor], row: Candidate, parameters: GenerationParameters
) -> float:
    log_probs = [
        float(step.log_softmax(-1)[0, token_id])
        for step, token_id in zip(scores, row, strict=False)
    ]
    return sum(log_probs) / float(len(row) ** parameters.length_penalty)


def _up_to_eos(row: list[int], parameters: GenerationParameters) -> Candidate:
    ends = [index for index, token_id in enumerate(row) if token_id in parameters.eos_token_ids]
    return tuple(row[: ends[0] + 1] if ends else row)


def _finish_reason(row: Candidate, parameters: GenerationParameters) -> FinishReason:
    """Why a hypothesis ended: an EOS that was forced at the maximum length was no choice."""
    was_forced = len(row) == parameters.max_length - 1 and bool(parameters.forced_eos_token_ids)
    return "eos" if row[-1] in parameters.eos_token_ids and not was_forced else "length"
