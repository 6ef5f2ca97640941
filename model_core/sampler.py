"""Greedy search and sampling: every hypothesis for itself, as in transformers' `_sample`."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from model_core.generation import GenerationParameters
from model_core.request import Hypothesis
from model_core.search import (
    START_LEN,
    Choice,
    Ended,
    FixedChoice,
    Hypotheses,
    Search,
    hypothesis,
    lists_of,
    log_softmax,
)
from model_core.stopping import StopStrings
from model_core.top_k import first_max


class Sampler(Search):
    """Every hypothesis for itself: the likeliest token (greedy search), or one that is drawn.

    A slot is one hypothesis wide, or as many as are to be drawn. Its draws are those of
    `generate()` after `torch.manual_seed(seed)`, whatever else is in the group.
    """

    def __init__(
        self,
        capacity: int,
        num_sequences: int,
        device: torch.device,
        stop_strings: StopStrings | None = None,
        fixed: FixedChoice | None = None,
    ) -> None:
        super().__init__(capacity, num_sequences, device, stop_strings, fixed)
        shape = (capacity, num_sequences)
        self._scores = torch.zeros(shape, device=device)
        self._ended = torch.zeros(shape, dtype=torch.bool, device=device)
        self._ended_lens = torch.zeros(shape, dtype=torch.long, device=device)
        self._pad_token_ids = torch.zeros((capacity, 1), dtype=torch.long, device=device)

    def fits(self, parameters: GenerationParameters) -> bool:
        """See `Search`."""
        return parameters.num_beams == 1 and parameters.num_return_sequences == self.num_beams

    def _choose(self, logits: Tensor) -> Choice:
        """See `Search`. Processors see raw logits, as in transformers' `_sample`."""
        num_slots = logits.shape[0] // self.num_beams
        logits = logits.view(num_slots, self.num_beams, -1)
        undrawable: set[int] = set()
        if self._fixed is None:
            token_ids, chosen, undrawable = self._pick(logits)
        else:
            token_ids, chosen = self._fixed.likeliest(
                logits, self._token_ids[:num_slots], self._lengths[:num_slots]
            )

        in_prompt = self._in_prompt(num_slots)[:, None]
        # A slot that is not a number fails at once, in its prompt too: its keys must not stay.
        broken = (chosen.isnan() & ~self._ended[:num_slots]).any(1)
        idle = self._ended[:num_slots] | in_prompt
        chosen = chosen.masked_fill(idle, 0)
        failed = broken | ~chosen.isfinite().all(1)
        for slot in undrawable:
            failed[slot] = True
        self._scores[:num_slots] += chosen
        if self._may_be_in_prompt():
            token_ids = torch.where(in_prompt, self._given(num_slots), token_ids)
        token_ids = torch.where(self._ended[:num_slots], self._pad_token_ids[:num_slots], token_ids)
        return Choice(None, self._end(token_ids, in_prompt), failed)

    def _pick(self, logits: Tensor) -> tuple[Tensor, Tensor, set[int]]:
        """Next tokens and their log-probabilities, and the slots in which no token can be drawn.

        Args:
            logits: [num_slots, num_beams, vocab]; changed in place.

        Returns:
            The first two are [num_slots, num_beams].
        """
        # The logits processors want rows that follow one another, which those of a GPU need not do.
        scores = self._process(logits.float().contiguous())
        token_ids = first_max(scores.flatten(0, 1)).view(len(scores), -1)
        undrawable = self._draw(scores, token_ids)
        log_probs = log_softmax(scores)  # one pass of its own kernel; a log-sum-exp takes several
        return token_ids, log_probs.gather(2, token_ids[..., None])[..., 0], undrawable

    def _draw(self, scores: Tensor, token_ids: Tensor) -> set[int]:
        """Replace the tokens of the slots that draw; gives those in which no token can be drawn.

        Args:
            scores: [num_slots, num_beams, vocab], processed.
            token_ids: [num_slots, num_beams], changed in place.
        """
        undrawable = set()
        for slot, generator in self._drawing():
            probabilities = scores[slot].softmax(-1)
            if probabilities.isfinite().all():
                token_ids[slot] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            else:
                undrawable.add(slot)
        return undrawable

    @property
    def results(self) -> tuple[Tensor, ...]:
        """See `Search`."""
        return self._ended_lens, self._scores, self._token_ids

    def read(self, results: Sequence[Tensor], ended: Sequence[Ended]) -> list[Hypotheses]:
        """See `Search`. Score: sum of log-probabilities / generated_len ** length_penalty.

        Drawn hypotheses come in the order of their rows, as from `generate()`.
        """
        *numbers, tokens = results
        slots = [slot for slot, _ in ended]
        lengths, scores = lists_of(slots, numbers)
        (token_ids,) = lists_of(slots, [tokens[:, :, : max(map(max, lengths))]])
        return [
            tuple(map(partial(_drawn, parameters), *of_slot))
            for (_, parameters), *of_slot in zip(ended, lengths, scores, token_ids, strict=True)
        ]

    def _end(self, token_ids: Tensor, in_prompt: Tensor) -> Tensor:
        """Append the tokens, note which rows end with them, and tell which slots are done."""
        num_slots = token_ids.shape[0]
        ends = self._is_eos(token_ids)
        self._add_stopped(ends, None, token_ids)
        self._append(token_ids)
        lengths = self._lengths[:num_slots]
        ends |= (lengths >= self._max_lengths[:num_slots])[:, None]
        ends &= ~(in_prompt | self._ended[:num_slots])
        now = lengths[:, None].expand_as(ends)
        self._ended_lens[:num_slots] = torch.where(ends, now, self._ended_lens[:num_slots])
        self._ended[:num_slots] |= ends
        return self._ended[:num_slots].all(1)

    def _start(self, rows: slice) -> None:
        self._scores[rows] = 0
        self._ended[rows] = False
        self._ended_lens[rows] = 0

    def _state(self) -> list[Tensor]:
        return [self._token_ids, self._scores, self._ended, self._ended_lens]

    def _refresh(self) -> None:
        super()._refresh()
        self._put(self._pad_token_ids, [[slot.parameters.pad_token_id] for slot in self._slots])


def _drawn(
    parameters: GenerationParameters, length: int, score: float, token_ids: list[int]
) -> Hypothesis:
    penalty = (length - parameters.prompt_len) ** parameters.length_penalty
    return hypothesis(parameters, token_ids[START_LEN:length], score / penalty)
