"""Checkpoints without a lean decoder: the library's own `generate()` behind the same seam."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from model_core.attention_mode import AttentionMode
from model_core.device_loss import telling_device_loss
from model_core.encoder import GlobalAttention, global_attention_arguments
from model_core.generation import GenerationParameters
from model_core.library import NEVER_FINISHED, cut_target, generate_arguments, seeded
from model_core.request import Hypothesis, Output, Request, finish_reason
from model_core.runner import EncodeReport, StepReport
from model_core.stopping import StopStrings

MAX_BATCH_SIZE = 8

_Key = tuple[GenerationParameters, int | None]


class GenerateRunner:
    """Runs anything that `AutoModelForSeq2SeqLM` loads, a whole micro-batch per step.

    Admission only puts requests in order. A step takes the oldest request and those that may
    share a `generate()` call with it: equal parameters and, unless the encoder is known to be
    indifferent to padding, equal source length. It blocks its thread until the call returns, so
    give such a checkpoint an engine of its own.

    Rows whose request is abandoned meanwhile stop at once. They stay admitted until the engine
    removes them; where a late caller has joined such a request, it starts over.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_token_id: int,
        *,
        is_padding_invariant: bool = False,
        max_batch_size: int = MAX_BATCH_SIZE,
        global_attention: GlobalAttention = "none",
        stop_strings: StopStrings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Run a loaded model.

        Args:
            model: In evaluation mode, on its device.
            pad_token_id: Fills sources up to the longest of a micro-batch.
            is_padding_invariant: Whether padding a source leaves its encoder outputs as they are.
            max_batch_size: Requests of one `generate()` call.
            global_attention: Which source tokens of LED attend to all.
            stop_strings: The checkpoint's; None where no request has any.
            clock: The engine's; deadlines are on it.
        """
        self._model = model
        self._pad_token_id = pad_token_id
        self._is_padding_invariant = is_padding_invariant
        self._max_batch_size = max_batch_size
        self._global_attention = global_attention
        self._mode = AttentionMode(model.get_encoder())
        self._stop_strings = stop_strings
        self._clock = clock
        self._admitted: dict[Request, None] = {}  # a set that keeps the order of admission

    def cost_bytes(self, request: Request) -> int:
        """Nothing: `max_batch_size` and the bounds of beams and lengths limit memory."""
        return 0

    def admit(self, requests: Sequence[Request]) -> EncodeReport:
        """Put requests in line; their sources are encoded in the step that runs them."""
        self._admitted.update(dict.fromkeys(requests))
        return EncodeReport()

    @telling_device_loss
    def step(self) -> StepReport:
        """Run the next micro-batch from its sources to its answers."""
        batch = self._next_batch()
        if not batch:
            return StepReport((), 0)
        stop_abandoned = _StopAbandoned(batch, self._clock)
        outputs = self._generate(batch, stop_abandoned)
        finished = tuple(
            (request, output)
            for request, output in zip(batch, outputs, strict=True)
            if request not in stop_abandoned.stopped
        )
        self.remove([request for request, _ in finished])
        num_rows = len(batch) * batch[0].parameters.num_hypotheses
        return StepReport(finished, num_rows, num_steps=stop_abandoned.num_steps)

    def remove(self, requests: Sequence[Request]) -> None:
        """Forget admitted requests."""
        for request in requests:
            del self._admitted[request]

    def reset(self) -> None:
        """Forget every admitted request."""
        self._admitted.clear()

    def _next_batch(self) -> list[Request]:
        now = self._clock()
        wanted = [request for request in self._admitted if not request.is_abandoned(now)]
        alike = [each for each in wanted if self._key(each) == self._key(wanted[0])]
        # The library draws for a whole batch from one generator: only alone is a seed a seed.
        is_drawn = bool(wanted) and wanted[0].parameters.do_sample
        return alike[: 1 if is_drawn else self._max_batch_size]

    def _key(self, request: Request) -> _Key:
        may_pad = self._is_padding_invariant and not request.parameters.reads_source
        return request.parameters, None if may_pad else request.source_len

    def _generate(self, batch: list[Request], stop_abandoned: StoppingCriteria) -> list[Output]:
        parameters = batch[0].parameters
        step_scores = _StepScores(parameters)
        inputs = self._padded(batch)
        source_len = inputs["input_ids"].shape[1]
        with seeded(parameters, self._model.device), self._mode.as_loaded(source_len):
            result: Any = self._model.generate(  # type: ignore[operator]
                **inputs,
                **generate_arguments(parameters, num_sources=len(batch), device=self._model.device),
                stopping_criteria=StoppingCriteriaList(
                    [stop_abandoned, *self._stop_at_strings(parameters), step_scores]
                ),
                return_dict_in_generate=True,
                output_scores=True,
            )
        rows = result.sequences[:, 1:].tolist()
        targets = [cut_target(row, parameters, self._stop_strings) for row in rows]
        if parameters.num_beams == 1:
            scores = step_scores.normalised(targets)
        else:
            scores = result.sequences_scores.tolist()
        hypotheses = [
            Hypothesis(target, score, finish_reason(target, parameters))
            for target, score in zip(targets, scores, strict=True)
        ]
        each = parameters.num_return_sequences
        slices = [hypotheses[row * each : (row + 1) * each] for row in range(len(batch))]
        return [
            Output.of(request, (rows[0], *(row for row in rows[1:] if row.score > NEVER_FINISHED)))
            for request, rows in zip(batch, slices, strict=True)
        ]

    def _stop_at_strings(self, parameters: GenerationParameters) -> list[StoppingCriteria]:
        if self._stop_strings is None or not parameters.stop_strings:
            return []
        return [_StopAtStrings(self._stop_strings, parameters.stop_strings)]

    def _padded(self, batch: list[Request]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, and the mask of global attention: [batch, source_len]."""
        source_len = max(request.source_len for request in batch)
        input_ids = torch.full((len(batch), source_len), self._pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, request in enumerate(batch):
            input_ids[row, : request.source_len] = torch.tensor(request.source_ids)
            attention_mask[row, : request.source_len] = 1
        device = self._model.device
        input_ids = input_ids.to(device)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask.to(device),
            **global_attention_arguments(input_ids, self._global_attention),
        }


class _StopAbandoned(StoppingCriteria):
    """Stops the rows of abandoned requests; asked by `generate()` once per step.

    Attributes:
        stopped: Requests whose rows were stopped, so that their answers mean nothing.
        num_steps: Steps so far.
    """

    def __init__(self, batch: list[Request], clock: Callable[[], float]) -> None:
        self.stopped: set[Request] = set()
        self.num_steps = 0
        self._batch = batch
        self._clock = clock

    def __call__(self, input_ids: Tensor, scores: tuple[Tensor, ...], **kwargs: object) -> Tensor:
        """Which rows to stop: [num_rows], bool.

        Args:
            input_ids: [num_rows, target_len]; greedy search shows one row per request, beam search
                its candidates, several times `num_beams` per request.
            scores: Not used.
            kwargs: Not used.
        """
        self.num_steps += 1
        now = self._clock()
        self.stopped.update(each for each in self._batch if each.is_abandoned(now))
        is_stopped = torch.tensor([each in self.stopped for each in self._batch])
        rows_per_request = input_ids.shape[0] // len(self._batch)
        return is_stopped.repeat_interleave(rows_per_request).to(input_ids.device)


class _StopAtStrings(StoppingCriteria):
    """Stops rows that end with one of these strings."""

    def __init__(self, stop_strings: StopStrings, strings: tuple[str, ...]) -> None:
        self._stop_strings = stop_strings
        self._strings = strings

    def __call__(self, input_ids: Tensor, scores: tuple[Tensor, ...], **kwargs: object) -> Tensor:
        """Which rows to stop: [num_rows], bool.

        Args:
            input_ids: [num_rows, target_len].
            scores: Not used.
            kwargs: Not used.
        """
        stopped = [self._stop_strings.ends(self._strings, row) for row in input_ids.tolist()]
        return torch.tensor(stopped, device=input_ids.device)


class _StepScores(StoppingCriteria):
    """Takes each step's scores off `generate()`'s hands; stops nothing.

    `generate()` keeps the scores of every step to its end, `num_rows * vocab` floats each, yet
    without `output_scores` it does not return the scores of its beams. Nothing reads a step's
    scores after its stopping criteria: greedy search adds up those of its tokens here, and then
    they are emptied.
    """

    def __init__(self, parameters: GenerationParameters) -> None:
        self._parameters = parameters
        self._token_scores: list[Tensor] = []  # [num_rows] per step, without beams only

    def __call__(self, input_ids: Tensor, scores: tuple[Tensor, ...], **kwargs: object) -> Tensor:
        """No row to stop: [num_rows], bool.

        Args:
            input_ids: [num_rows, target_len], with the token of this step.
            scores: Processed scores of every step so far; the last is [batch, vocab] in greedy
                search.
            kwargs: Not used.
        """
        step_scores = scores[-1]
        if self._parameters.num_beams == 1:
            log_probs = torch.log_softmax(step_scores, dim=-1)
            self._token_scores.append(log_probs.gather(1, input_ids[:, -1:]).squeeze(1))
        step_scores.data = step_scores.new_empty(0)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def normalised(self, targets: list[tuple[int, ...]]) -> list[float]:
        """Without beams: sum of log-probabilities / `generated_len ** length_penalty`."""
        token_scores = torch.stack(self._token_scores, dim=1)
        first = len(self._parameters.target_prefix_ids)
        sums = [
            (row[: len(target) - first].sum().item(), len(target) - first)
            for row, target in zip(token_scores, targets, strict=True)
        ]
        return [total / length**self._parameters.length_penalty for total, length in sums]
