"""Beam search, as in transformers' `_beam_search`."""

import torch
from torch import Tensor

from model_core.cache import select_rows
from model_core.generation import GenerationParameters
from model_core.request import Hypothesis
from model_core.search import START_LEN, Choice, Search
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
    """

    def __init__(
        self,
        capacity: int,
        num_beams: int,
        num_candidates: int,
        device: torch.device,
        stop_strings: StopStrings | None = None,
    ) -> None:
        super().__init__(capacity, num_beams, device, stop_strings)
        self.num_candidates = num_candidates
        shape = (capacity, num_beams)
        self._live_scores = torch.zeros(shape, device=device)
        self._finished_scores = torch.zeros(shape, device=device)
        self._finished_lens = torch.zeros(shape, dtype=torch.long, device=device)
        self._is_finished = torch.zeros(shape, dtype=torch.bool, device=device)
        self._finished_ids = torch.zeros((*shape, 0), dtype=torch.long, device=device)

    def fits(self, parameters: GenerationParameters) -> bool:
        """See `Search`."""
        wanted = (parameters.num_beams, parameters.num_candidates)
        return parameters.num_beams > 1 and wanted == (self.num_beams, self.num_candidates)

    def _choose(self, logits: Tensor) -> Choice:
        """See `Search`. Processors see log-probabilities, as in transformers' beam search."""
        num_slots = self.num_slots
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        log_probs = self._process(log_probs.view(num_slots, self.num_beams, -1))
        in_prompt = self._in_prompt()
        scores, parents, token_ids, is_usable = self._candidates(log_probs, in_prompt)

        full = self._lengths[:num_slots] + 1 >= self._max_lengths
        ended = self._is_eos(token_ids)
        self._add_stopped(ended, parents, token_ids)
        ended |= full.to(self._device)[:, None]
        ended &= ~in_prompt.to(self._device)[:, None]
        self._finish(scores, parents, token_ids, ended)

        live_scores, best = (scores + ended * _IMPOSSIBLE).topk(self.num_beams)
        self._live_scores[:num_slots] = live_scores
        parents, token_ids = parents.gather(1, best), token_ids.gather(1, best)
        longest = int(self._lengths[:num_slots].max())
        self._token_ids[:num_slots, :, :longest] = select_rows(
            self._token_ids[:num_slots, :, :longest], parents
        )
        self._append(token_ids)
        done = (self._is_decided() | ended.all(-1)).cpu() & ~in_prompt
        return Choice(parents, done.tolist(), (~is_usable).tolist())

    def _candidates(
        self, log_probs: Tensor, in_prompt: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scores, parents and tokens of the continuations of each slot that are considered.

        Args:
            log_probs: [num_slots, num_beams, vocab], processed.
            in_prompt: [num_slots], on the CPU.

        Returns:
            Each [num_slots, num_candidates], and [num_slots]: whether a slot has a candidate with
            a finite score. A slot in its prompt has one candidate for each of its rows, with the
            token that is given.
        """
        num_beams = self.num_beams
        scores, parents, token_ids = self._best(log_probs)
        for slot, generator in self._drawing():
            totals = self._totals(log_probs, slot)
            probabilities = totals.softmax(-1)
            if probabilities.isfinite().all():
                drawn = torch.multinomial(probabilities, self.num_candidates, generator=generator)
                scores[slot] = totals[drawn]
                parents[slot], token_ids[slot] = self._split(drawn, log_probs)
        if in_prompt.any():
            slots = in_prompt.nonzero()[:, 0].to(self._device)
            scores[slots] = -torch.inf
            scores[slots, :num_beams] = self._live_scores[slots]
            parents[slots, :num_beams] = torch.arange(num_beams, device=self._device)
            token_ids[slots, :num_beams] = self._given()[slots]
        return scores, parents, token_ids, scores.amax(1).isfinite()

    def _best(self, log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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

    def hypotheses(self, slot: int) -> tuple[Hypothesis, ...]:
        """See `Search`. Scores are transformers' `sequences_scores`.

        Fewer than `num_return_sequences` where the search found no more: transformers then fills
        up with rows that never finished. None where scores leave the range of what is possible.
        """
        finished = int(self._is_finished[slot].sum())
        wanted = min(self._slots[slot].parameters.num_return_sequences, finished)
        lengths = self._finished_lens[slot, :wanted].tolist()
        scores = self._finished_scores[slot, :wanted].tolist()
        token_ids = self._finished_ids[slot, :wanted].tolist()
        return tuple(
            self._hypothesis(slot, token_ids[rank][START_LEN : lengths[rank]], scores[rank])
            for rank in range(wanted)
        )

    def _finish(self, scores: Tensor, parents: Tensor, token_ids: Tensor, ended: Tensor) -> None:
        """Let candidates that end now compete with the finished hypotheses."""
        num_slots, num_beams = self.num_slots, self.num_beams
        eligible = ended.clone()
        eligible[:, num_beams:] = False
        if not eligible.any():
            return
        lengths = self._lengths[:num_slots].to(self._device)
        generated_lens = lengths + 1 - self._prompt_lens.to(self._device)
        factor = self._length_factor(generated_lens.clamp(min=1))
        penalised = scores / factor[:, None] + ~eligible * _IMPOSSIBLE
        longest = int(lengths.max()) + 1
        candidates = select_rows(self._token_ids[:num_slots, :, :longest], parents)
        end = lengths[:, None, None].expand(-1, candidates.shape[1], 1)
        candidates = candidates.scatter(2, end, token_ids[..., None])
        candidate_lens = (lengths[:, None] + 1).expand_as(parents)

        merged = torch.cat((self._finished_scores[:num_slots], penalised), dim=1)
        best_scores, best = merged.topk(num_beams)
        self._finished_scores[:num_slots] = best_scores
        for state, new in (
            (self._is_finished, eligible),
            (self._finished_lens, candidate_lens),
            (self._finished_ids[:, :, :longest], candidates),
        ):
            state[:num_slots] = select_rows(torch.cat((state[:num_slots], new), dim=1), best)

    def _is_decided(self) -> Tensor:
        """[num_slots]: no live hypothesis can, or may, still improve on the finished ones."""
        lengths = self._lengths[: self.num_slots]
        best_lens = torch.where(self._assume_longest, self._max_lengths, lengths)
        generated_lens = (best_lens - self._prompt_lens).clamp(min=1)
        factor = self._length_factor(generated_lens.to(self._device))
        attainable = self._live_scores[: self.num_slots, 0] / factor
        worst = self._finished_scores[: self.num_slots].amin(1, keepdim=True)
        is_finished = self._is_finished[: self.num_slots]
        worst = torch.where(is_finished, worst, _IMPOSSIBLE)
        hopeless = ~(attainable[:, None] > worst).any(1)
        return hopeless | (is_finished.all(1) & self._stops_early)

    def _length_factor(self, generated_lens: Tensor) -> Tensor:
        """`generated_len ** length_penalty`, computed in float64 as Python does."""
        return (generated_lens.double() ** self._length_penalties).float()

    def _start(self, slot: int) -> None:
        # Only the first row counts at first, else all rows would choose the same tokens.
        self._live_scores[slot] = _IMPOSSIBLE
        self._live_scores[slot, 0] = 0
        self._finished_scores[slot] = _IMPOSSIBLE
        self._finished_lens[slot] = START_LEN
        self._is_finished[slot] = False

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
        self._length_penalties = torch.tensor(
            [p.length_penalty for p in parameters], dtype=torch.float64, device=self._device
        )
        self._stops_early = torch.tensor(
            [p.early_stopping is True for p in parameters], device=self._device
        )
        self._assume_longest = torch.tensor(
            [p.early_stopping == "never" and p.length_penalty > 0 for p in parameters]
        )
