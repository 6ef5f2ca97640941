"""Beam search, as in transformers' `_beam_search`."""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from model_core.cache import select_rows
from model_core.generation import GenerationParameters
from model_core.search import (
    START_LEN,
    Choice,
    Ended,
    FixedChoice,
    Hypotheses,
    Ranked,
    Search,
    hypothesis,
    lists_of,
    log_softmax,
)
from model_core.stopping import StopStrings
from model_core.top_k import top_k

_IMPOSSIBLE = -1.0e9
"""Score of what must not be chosen, as in transformers: finite, so that sums stay ordered."""


class BeamSearch(Search):
    """Beam search with the candidate, length-penalty and stopping rules of transformers 5.

    Every request has `num_candidates` candidates in each step; those that end, and are among the
    first `num_beams`, compete for the finished hypotheses with their score divided by
    `generated_len ** length_penalty`; the best that do not end live on.

    Args:
        capacity: See `Search`.
        num_beams: See `Search`.
        num_candidates: Of every request in the group. Which of two equal scores comes first depends
            on how many are asked for, so requests with other numbers of them must not join.
        device: See `Search`.
        stop_strings: See `Search`.
        fixed: See `Search`.
    """

    def __init__(
        self,
        capacity: int,
        num_beams: int,
        num_candidates: int,
        device: torch.device,
        stop_strings: StopStrings | None = None,
        fixed: FixedChoice | None = None,
    ) -> None:
        shape = (capacity, num_beams)
        self._finished_ids = torch.zeros((*shape, 0), dtype=torch.long, device=device)
        super().__init__(capacity, num_beams, device, stop_strings, fixed)
        self.num_candidates = num_candidates
        self._live_scores = torch.zeros(shape, device=device)
        self._finished_scores = torch.zeros(shape, device=device)
        self._finished_lens = torch.zeros(shape, dtype=torch.long, device=device)
        self._is_finished = torch.zeros(shape, dtype=torch.bool, device=device)
        self._length_penalties = torch.zeros(capacity, dtype=torch.float64, device=device)
        self._stops_early = torch.zeros(capacity, dtype=torch.bool, device=device)
        self._assume_longest = torch.zeros(capacity, dtype=torch.bool, device=device)

    def fits(self, parameters: GenerationParameters) -> bool:
        """See `Search`."""
        wanted = (parameters.num_beams, parameters.num_candidates)
        return parameters.num_beams > 1 and wanted == (self.num_beams, self.num_candidates)

    def _choose(self, logits: Tensor) -> Choice:
        """See `Search`. Processors see log-probabilities, as in transformers' beam search."""
        num_slots = logits.shape[0] // self.num_beams
        in_prompt = self._in_prompt(num_slots)
        ranked = self._ranked(logits.view(num_slots, self.num_beams, -1))
        scores, parents, token_ids, is_usable = self._candidates(ranked, in_prompt)

        ended = self._is_eos(token_ids)
        self._add_stopped(ended, parents, token_ids)
        ended |= (self._lengths[:num_slots] + 1 >= self._max_lengths[:num_slots])[:, None]
        ended &= ~in_prompt[:, None]
        self._finish(scores, parents, token_ids, ended)

        live_scores, best = (scores + ended * _IMPOSSIBLE).topk(self.num_beams)
        self._live_scores[:num_slots] = live_scores
        parents, token_ids = parents.gather(1, best), token_ids.gather(1, best)
        live_ids = self._token_ids[:num_slots, :, : self._longest]
        live_ids.copy_(select_rows(live_ids, parents))
        self._append(token_ids)
        done = (self._is_decided(num_slots) | ended.all(-1)) & ~in_prompt
        return Choice(parents, done, ~is_usable)

    def _ranked(self, logits: Tensor) -> Ranked:
        """The continuations that are considered, `num_candidates` of each slot.

        Args:
            logits: [num_slots, num_beams, vocab]; changed in place.
        """
        num_slots = len(logits)
        if self._fixed is not None:
            return self._fixed.best(
                logits,
                self._live_scores[:num_slots],
                self.num_candidates,
                self._token_ids[:num_slots],
                self._lengths[:num_slots],
            )
        log_probs = self._process(log_softmax(logits))
        scores, parents, token_ids = self._best(log_probs)
        for slot, generator in self._drawing():
            totals = self._totals(log_probs, slot)
            probabilities = totals.softmax(-1)
            if probabilities.isfinite().all():
                drawn = torch.multinomial(probabilities, self.num_candidates, generator=generator)
                scores[slot] = totals[drawn]
                parents[slot], token_ids[slot] = self._split(drawn, log_probs)
        return scores, parents, token_ids

    def _candidates(
        self, ranked: Ranked, in_prompt: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a slot can continue with: what is best, or what its prompt gives.

        Args:
            ranked: See `_ranked`.
            in_prompt: [num_slots].

        Returns:
            Scores, parents and tokens, each [num_slots, num_candidates], and [num_slots]: whether
            a slot has a candidate with a finite score. A slot in its prompt has one candidate for
            each of its rows, with the token that is given.
        """
        num_beams = self.num_beams
        scores, parents, token_ids = ranked
        # A slot that is not a number fails at once, in its prompt too: its keys must not stay.
        broken = scores.isnan().any(1)
        if self._may_be_in_prompt():
            num_slots, in_prompt = in_prompt.shape[0], in_prompt[:, None]
            scores = scores.masked_fill(in_prompt, -torch.inf)
            rows = torch.arange(num_beams, device=self._device)
            for chosen, given in (
                (scores, self._live_scores[:num_slots]),
                (parents, rows),
                (token_ids, self._given(num_slots)),
            ):
                chosen[:, :num_beams] = torch.where(in_prompt, given, chosen[:, :num_beams])
        return scores, parents, token_ids, scores.amax(1).isfinite() & ~broken

    def _best(self, log_probs: Tensor) -> Ranked:
        """Scores, parents and tokens of the best continuations, each [num_slots, num_candidates].

        The best of each row are found first, and only they are added to a score. Where two scores
        are equal, all of the slot are ranked as transformers ranks them, so that the same one wins;
        one more than is wanted shows whether the last has an equal.
        """
        num_slots, num_beams, vocab = log_probs.shape
        of_row = min(self.num_candidates + 1, vocab)
        best, tokens = top_k(log_probs.view(-1, vocab), of_row)
        live_scores = self._live_scores[:num_slots, :, None]
        totals = (best.view(num_slots, num_beams, -1) + live_scores).flatten(1)
        ranked, flat = totals.topk(min(self.num_candidates + 1, totals.shape[1]))
        scores, flat = ranked[:, : self.num_candidates], flat[:, : self.num_candidates]
        parents, token_ids = flat // of_row, tokens.view(num_slots, -1).gather(1, flat)
        has_equals = (ranked[:, 1:] == ranked[:, :-1]).any(1)
        for slot in has_equals.nonzero()[:, 0].tolist():
            scores[slot], flat = self._totals(log_probs, slot).topk(self.num_candidates)
            parents[slot], token_ids[slot] = self._split(flat, log_probs)
        return scores, parents, token_ids

    def _totals(self, log_probs: Tensor, slot: int) -> Tensor:
        """Scores of all continuations of a slot, [num_beams * vocab]."""
        return (log_probs[slot] + self._live_scores[slot, :, None]).flatten()

    def _split(self, flat: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Parents and tokens of places in `_totals`."""
        vocab = log_probs.shape[2]
        return flat // vocab, flat % vocab

    @property
    def results(self) -> tuple[Tensor, ...]:
        """See `Search`."""
        states = (self._is_finished, self._finished_lens, self._finished_scores)
        return *states, self._finished_ids

    def read(self, results: Sequence[Tensor], ended: Sequence[Ended]) -> list[Hypotheses]:
        """See `Search`. Scores are transformers' `sequences_scores`.

        Fewer than `num_return_sequences` where the search found no more: transformers then fills
        up with rows that never finished. None where scores leave the range of what is possible.
        """
        *numbers, tokens = results
        slots = [slot for slot, _ in ended]
        finished, lengths, scores = lists_of(slots, numbers)
        (token_ids,) = lists_of(slots, [tokens[:, :, : max(map(max, lengths))]])
        found = []
        for index, (_, parameters) in enumerate(ended):
            num_wanted = min(parameters.num_return_sequences, sum(finished[index]))
            rows = zip(token_ids[index], lengths[index], scores[index], strict=True)
            found.append(
                tuple(
                    hypothesis(parameters, ids[START_LEN:length], score)
                    for ids, length, score in islice(rows, num_wanted)
                )
            )
        return found

    def _finish(self, scores: Tensor, parents: Tensor, token_ids: Tensor, ended: Tensor) -> None:
        """Let candidates that end now compete with the finished hypotheses."""
        num_slots, num_beams = ended.shape[0], self.num_beams
        eligible = ended & ~self._is_done[:num_slots, None]
        eligible[:, num_beams:] = False
        if self._fixed is None and not eligible.any():
            return
        lengths = self._lengths[:num_slots]
        generated_lens = lengths + 1 - self._prompt_lens[:num_slots]
        factor = self._length_factor(generated_lens.clamp(min=1))
        penalised = scores / factor[:, None] + ~eligible * _IMPOSSIBLE
        longest = self._longest + 1
        candidates = select_rows(self._token_ids[:num_slots, :, :longest], parents)
        end = lengths[:, None, None].expand(-1, candidates.shape[1], 1)
        candidates = candidates.scatter(2, end, token_ids[..., None])
        candidate_lens = (lengths[:, None] + 1).expand_as(parents)

        merged = torch.cat((self._finished_scores[:num_slots], penalised), dim=1)
        best = merged.topk(num_beams).indices
        # Ranking equal scores once more could change their order.
        ranks = torch.arange(num_beams, device=self._device)
        best = torch.where(self._is_done[:num_slots, None], ranks, best)
        self._finished_scores[:num_slots] = merged.gather(1, best)
        for state, new in (
            (self._is_finished, eligible),
            (self._finished_lens, candidate_lens),
            (self._finished_ids[:, :, :longest], candidates),
        ):
            state[:num_slots] = select_rows(torch.cat((state[:num_slots], new), dim=1), best)

    def _is_decided(self, num_slots: int) -> Tensor:
        """[num_slots]: no live hypothesis can, or may, still improve on the finished ones."""
        best_lens = torch.where(
            self._assume_longest[:num_slots],
            self._max_lengths[:num_slots],
            self._lengths[:num_slots],
        )
        generated_lens = (best_lens - self._prompt_lens[:num_slots]).clamp(min=1)
        attainable = self._live_scores[:num_slots, 0] / self._length_factor(generated_lens)
        worst = self._finished_scores[:num_slots].amin(1, keepdim=True)
        is_finished = self._is_finished[:num_slots]
        worst = torch.where(is_finished, worst, _IMPOSSIBLE)
        hopeless = ~(attainable[:, None] > worst).any(1)
        return hopeless | (is_finished.all(1) & self._stops_early[:num_slots])

    def _length_factor(self, generated_lens: Tensor) -> Tensor:
        """`generated_len ** length_penalty`, computed in float64 as Python does."""
        penalties = self._length_penalties[: len(generated_lens)]
        return (generated_lens.double() ** penalties).float()

    def _start(self, rows: slice) -> None:
        # Only the first row counts at first, else all rows would choose the same tokens.
        self._live_scores[rows] = _IMPOSSIBLE
        self._live_scores[rows, 0] = 0
        self._finished_scores[rows] = _IMPOSSIBLE
        self._finished_lens[rows] = START_LEN
        self._is_finished[rows] = False

    def _state(self) -> list[Tensor]:
        return [
            self._token_ids,
            self._live_scores,
            self._finished_scores,
            self._finished_lens,
            self._is_finished,
            self._finished_ids,
        ]

    def _reserve(self, target_len: int) -> None:
        super()._reserve(target_len)
        missing = self._token_ids.shape[2] - self._finished_ids.shape[2]
        if missing > 0:
            self._finished_ids = torch.nn.functional.pad(self._finished_ids, (0, missing))

    def _refresh(self) -> None:
        super()._refresh()
        parameters = [slot.parameters for slot in self._slots]
        self._put(self._length_penalties, [p.length_penalty for p in parameters])
        self._put(self._stops_early, [p.early_stopping is True for p in parameters])
        never = [p.early_stopping == "never" and p.length_penalty > 0 for p in parameters]
        self._put(self._assume_longest, never)
