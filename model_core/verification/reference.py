"""What `generate()` gives one request alone, and on request how it came to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from model_core.generation import GenerationParameters
from model_core.library import cut_target, generate_arguments, seeded
from model_core.request import FinishReason, Hypothesis
from model_core.stopping import StopStrings

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
        stop_strings: The checkpoint's; None where the parameters have none.
    """

    model: PreTrainedModel
    source_ids: tuple[int, ...]
    parameters: GenerationParameters
    hypotheses: tuple[Hypothesis, ...]
    stop_strings: StopStrings | None = None


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
    model: PreTrainedModel,
    source_ids: Sequence[int],
    parameters: GenerationParameters,
    stop_strings: StopStrings | None = None,
) -> Reference:
    """The answer of `generate()` to one request, in a batch of its own."""
    asked = Reference(model, tuple(source_ids), parameters, (), stop_strings)
    return replace(asked, hypotheses=_hypotheses(_generate(asked), asked))


def trace(reference: Reference, nudges: Mapping[Candidate, float]) -> "Trace":
    """Ask `generate()` again, and look at every step.

    Args:
        reference: The request.
        nudges: What to add to the scores of single candidates on the way.
    """
    watch = _Watch(nudges)
    result = _generate(
        reference,
        logits_processor=LogitsProcessorList([watch]),
        output_logits=True,
    )
    steps = tuple(
        TracedStep(prefixes, scores.cpu(), float(logits.abs().max()))
        for prefixes, scores, logits in zip(
            watch.prefixes, result.scores, result.logits, strict=True
        )
    )
    return Trace(_hypotheses(result, reference), steps)


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
def _generate(reference: Reference, **extra: object) -> Any:
    model, parameters = reference.model, reference.parameters
    source = torch.tensor([list(reference.source_ids)], device=model.device)
    tokenizer = None if reference.stop_strings is None else reference.stop_strings.tokenizer
    generate: Any = model.generate
    with seeded(parameters, model.device):
        return generate(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            **generate_arguments(parameters, device=model.device, tokenizer=tokenizer),
            **extra,
            return_dict_in_generate=True,
            output_scores=True,
        )


def _hypotheses(result: Any, reference: Reference) -> tuple[Hypothesis, ...]:
    parameters = reference.parameters
    stop = None
    if reference.stop_strings is not None and parameters.stop_strings:
        stop = reference.stop_strings.criterion(parameters.stop_strings)
    rows = [cut_target(row, parameters, stop) for row in result.sequences[:, 1:].tolist()]
    scores = (
        result.sequences_scores.tolist()
        if parameters.num_beams > 1
        else [_own_score(result.scores, index, row, parameters) for index, row in enumerate(rows)]
    )
    return tuple(
        Hypothesis(row, score, _finish_reason(row, parameters))
        for row, score in zip(rows, scores, strict=True)
    )


def _own_score(
    scores: Sequence[Tensor], index: int, row: Candidate, parameters: GenerationParameters
) -> float:
    generated = row[len(parameters.target_prefix_ids) :]
    log_probs = [
        float(step[index].log_softmax(-1)[token_id])
        for step, token_id in zip(scores, generated, strict=False)
    ]
    return sum(log_probs) / float(len(generated) ** parameters.length_penalty)


def _finish_reason(row: Candidate, parameters: GenerationParameters) -> FinishReason:
    """Why a hypothesis ended: an EOS that was forced at the maximum length was no choice."""
    is_full = len(row) == parameters.max_length - 1
    if row[-1] not in parameters.eos_token_ids:
        return "length" if is_full else "stop_string"
    return "length" if is_full and parameters.forced_eos_token_ids else "eos"
