"""What `generate()` gives one request alone, and on request how it came to it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from model_core.attention_mode import AttentionMode
from model_core.encoder import GlobalAttention, global_attention_arguments
from model_core.generation import GenerationParameters
from model_core.library import cut_target, seeded
from model_core.request import FinishReason, Hypothesis
from model_core.stopping import StopStrings

Candidate = tuple[int, ...]
"""Target tokens from the decoder start token to a token that may be chosen next."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One request as `generate()` gets it.

    Attributes:
        model: What is asked.
        source_ids: Encoder-side tokens.
        parameters: Fully resolved.
        stop_strings: The checkpoint's; None where the parameters have none.
        global_attention: Of the checkpoint.
    """

    model: PreTrainedModel
    source_ids: tuple[int, ...]
    parameters: GenerationParameters
    stop_strings: StopStrings | None = None
    global_attention: GlobalAttention = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The answer of `generate()` to one request.

    Attributes:
        asked: The request.
        hypotheses: `num_return_sequences` of them. Scores are `sequences_scores`; without beams,
            where there are none, the same formula over the log-softmax of the processed scores.
    """

    asked: Asked
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


@dataclass(frozen=True, slots=True)
class Trace:
    """How `generate()` came to an answer.

    Attributes:
        hypotheses: The answer.
        steps: Every step.
    """

    hypotheses: tuple[Hypothesis, ...]
    steps: tuple[TracedStep, ...]


def generate_alone(
    model: PreTrainedModel,
    source_ids: Sequence[int],
    parameters: GenerationParameters,
    stop_strings: StopStrings | None = None,
    global_attention: GlobalAttention = "none",
) -> Reference:
    """The answer of `generate()` to one request, in a batch of its own.

    Drawn tokens are those that the library draws with the seed of the request.
    """
    asked = Asked(model, tuple(source_ids), parameters, stop_strings, global_attention)
    return Reference(asked, _hypotheses(_generate(asked), asked))


def trace(asked: Asked, nudges: Mapping[Candidate, float]) -> Trace:
    """Ask `generate()` again, and look at every step.

    Args:
        asked: The request.
        nudges: What to add to the scores of single candidates on the way.
    """
    watch = _Watch(nudges)
    result = _generate(asked, logits_processor=LogitsProcessorList([watch]), output_logits=True)
    # On an accelerator the library may run a step too many, and forget it.
    taken = zip(watch.prefixes, result.scores, result.logits, strict=False)
    steps = tuple(
        TracedStep(prefixes, scores.cpu(), float(logits.abs().max()))
        for prefixes, scores, logits in taken
    )
    return Trace(_hypotheses(result, asked), steps)


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
def _generate(asked: Asked, **extra: object) -> Any:
    parameters, device = asked.parameters, asked.model.device
    source = torch.tensor([asked.source_ids], device=device)
    arguments = parameters.generate_kwargs()
    if parameters.target_prefix_ids:
        arguments["decoder_input_ids"] = torch.tensor([parameters.prompt_ids], device=device)
    if asked.stop_strings is not None:
        arguments["tokenizer"] = asked.stop_strings.tokenizer
    generate: Any = asked.model.generate
    mode = AttentionMode(asked.model.get_encoder())
    with ExitStack() as during:
        during.enter_context(mode.as_loaded(len(asked.source_ids)))
        if parameters.do_sample:
            # BigBird, turning to full attention, draws weights that it does not keep: not after
            # the seed, or the tokens would depend on whether it has turned before.
            asked.model.get_encoder()(input_ids=source)
        during.enter_context(seeded(parameters, device))
        return generate(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            **global_attention_arguments(source, asked.global_attention),
            **arguments,
            **extra,
            return_dict_in_generate=True,
            output_scores=True,
        )


def _hypotheses(result: Any, asked: Asked) -> tuple[Hypothesis, ...]:
    parameters = asked.parameters
    rows = _without_padding(result, asked)
    if parameters.num_beams > 1:
        scores = result.sequences_scores.tolist()
    else:
        scores = [
            _own_score([step[index] for step in result.scores], row, parameters)
            for index, row in enumerate(rows)
        ]
    return tuple(
        Hypothesis(tuple(row), score, _finish_reason(row, parameters))
        for row, score in zip(rows, scores, strict=True)
    )


def _without_padding(result: Any, asked: Asked) -> list[list[int]]:
    """Target tokens of each row after the decoder start token, without what follows its end."""
    parameters = asked.parameters
    rows: list[list[int]] = result.sequences[:, 1:].tolist()
    if parameters.num_beams > 1:  # behind the end there is no beam that a token came from
        num_new = (result.beam_indices >= 0).sum(-1).tolist()
        num_given = len(parameters.target_prefix_ids)
        return [row[: num_given + count] for row, count in zip(rows, num_new, strict=True)]
    if len(rows) == 1:
        return rows
    return [list(cut_target(row, parameters, asked.stop_strings)) for row in rows]


def _own_score(
    scores: Sequence[Tensor], row: Sequence[int], parameters: GenerationParameters
) -> float:
    new = row[len(parameters.target_prefix_ids) :]
    log_probs = [
        float(step.log_softmax(-1)[token_id]) for step, token_id in zip(scores, new, strict=False)
    ]
    return sum(log_probs) / float(len(new) ** parameters.length_penalty)


def _finish_reason(row: Sequence[int], parameters: GenerationParameters) -> FinishReason:
    """Why a hypothesis ended: an EOS that was forced at the maximum length was no choice."""
    is_full = 1 + len(row) >= parameters.max_length  # 1: the decoder start token
    last = row[-1] if row else None
    if last in parameters.eos_token_ids:
        return "length" if is_full and last in parameters.forced_eos_token_ids else "eos"
    return "length" if is_full else "stop_string"
