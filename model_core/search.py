"""How tokens are chosen: greedy search, sampling and beam search, over the requests of a group.

The rules are those of transformers 5 (`GenerationMixin._sample` and `_beam_search`), with every
parameter per request, vectorised over requests. Only what few requests ask for is done request by
request: drawing tokens, each from a generator of its own, and stop strings.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import StopStringCriteria

from model_core.errors import NonFiniteScoreError
from model_core.generation import GenerationParameters
from model_core.logits import History, LogitsProcessor, build_processors
from model_core.own_processors import OwnProcessors
from model_core.request import Hypothesis, finish_reason
from model_core.stopping import StopStrings, stops

_IMPOSSIBLE = -1.0e9
"""Score of what must not be chosen, as in transformers: finite, so that sums stay ordered."""
_NO_TOKEN = -1
_START_LEN = 1
"""Length of a target that holds the decoder start token only."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one step chose.

    Attributes:
        parents: [num_slots, num_beams], the row each new hypothesis extends; None where every
            row extends itself.
        done: Per slot, whether its request has ended.
    """

    parents: Tensor | None
    done: list[bool]


@dataclass(frozen=True, slots=True)
class _Slot:
    """What one request brings along.

    Attributes:
        parameters: Of the request.
        processors: Logits processors that are not vectorised.
        stop: Its stop strings, where it has any.
        generator: What its tokens are drawn with, where they are drawn.
    """

    parameters: GenerationParameters
    processors: OwnProcessors
    stop: StopStringCriteria | None
    generator: torch.Generator | None


class Search(ABC):
    """The search state of one group of requests; slots `0 .. num_slots - 1` are in use.

    A slot begins with its prompt, which is given: the decoder start token and the target prefix.
    The steps through a prefix choose nothing and change no score.

    Args:
        capacity: Most slots.
        num_beams: Hypotheses per slot.
        device: Where the logits are.
        stop_strings: Makes the criteria of requests with stop strings.
    """

    def __init__(
        self,
        capacity: int,
        num_beams: int,
        device: torch.device,
        stop_strings: StopStrings | None = None,
    ) -> None:
        self.num_beams = num_beams
        self._device = device
        self._stop_strings = stop_strings
        self._slots: list[_Slot] = []
        self._processors: tuple[LogitsProcessor, ...] = ()
        self._is_stale = False
        # Lengths and limits live on the CPU: they are known without looking at the device.
        self._lengths = torch.zeros(capacity, dtype=torch.long)
        self._prompt_lens = torch.zeros(0, dtype=torch.long)
        self._max_lengths = torch.zeros(0, dtype=torch.long)
        self._eos_token_ids = torch.zeros((0, 0), dtype=torch.long)
        self._token_ids = torch.zeros((capacity, num_beams, 0), dtype=torch.long, device=device)

    @property
    def num_slots(self) -> int:
        """Slots in use."""
        return len(self._slots)

    @property
    def positions(self) -> Tensor:
        """[num_slots], on the CPU: target position of the last token of each slot."""
        return self._lengths[: self.num_slots] - 1

    @property
    def last_token_ids(self) -> Tensor:
        """[num_slots, num_beams]: the token that the next step feeds for each hypothesis."""
        slots = torch.arange(self.num_slots, device=self._device)
        return self._token_ids[slots, :, self.positions.to(self._device)]

    def admit(self, parameters: GenerationParameters, source_ids: Sequence[int]) -> int:
        """Give a request the next free slot; returns the slot."""
        slot = self.num_slots
        self._reserve(parameters.max_length)
        self._slots.append(self._new_slot(parameters, source_ids))
        self._lengths[slot] = _START_LEN
        prompt = torch.tensor(parameters.prompt_ids, device=self._device)
        self._token_ids[slot, :, : len(prompt)] = prompt
        self._start(slot)
        self._is_stale = True
        return slot

    def remove(self, slot: int) -> None:
        """Free a slot: the last slot moves into the hole."""
        last = self.num_slots - 1
        self._slots[slot] = self._slots[last]
        for state in (self._lengths, *self._state()):
            state[slot] = state[last]
        self._slots.pop()
        self._is_stale = True

    def advance(self, logits: Tensor) -> Choice:
        """Choose the next token of every live hypothesis.

        Args:
            logits: [num_slots * num_beams, vocab]; changed in place.

        Raises:
            NonFiniteScoreError: A slot has no token with a finite score.
        """
        if self._is_stale:
            self._refresh()
            self._is_stale = False
        return self._choose(logits)

    @abstractmethod
    def _choose(self, logits: Tensor) -> Choice:
        """See `advance`."""

    @abstractmethod
    def hypotheses(self, slot: int) -> tuple[Hypothesis, ...]:
        """The results of a slot whose request has ended, best first."""

    @abstractmethod
    def _start(self, slot: int) -> None:
        """Set the search's own state of a new slot."""

    @abstractmethod
    def _state(self) -> list[Tensor]:
        """Every tensor whose first dimension is the slot, apart from the lengths."""

    def _new_slot(self, parameters: GenerationParameters, source_ids: Sequence[int]) -> _Slot:
        stop = None
        if parameters.stop_strings and self._stop_strings is not None:
            stop = self._stop_strings.criterion(parameters.stop_strings)
        generator = None
        if parameters.do_sample:
            generator = torch.Generator(self._device).manual_seed(parameters.seed)
        processors = OwnProcessors.build(parameters, source_ids, self._device)
        return _Slot(parameters, processors, stop, generator)

    def _refresh(self) -> None:
        """Rebuild what depends on which requests are in the group: once per step at most."""
        parameters = [slot.parameters for slot in self._slots]
        own = [slot.processors for slot in self._slots]
        self._processors = build_processors(parameters, own, self._device)
        self._prompt_lens = torch.tensor([p.prompt_len for p in parameters])
        self._max_lengths = torch.tensor([p.max_length for p in parameters])
        most = max(1, max(len(p.eos_token_ids) for p in parameters))
        self._eos_token_ids = torch.tensor(
            [[*p.eos_token_ids, *[_NO_TOKEN] * (most - len(p.eos_token_ids))] for p in parameters],
            device=self._device,
        )

    def _reserve(self, target_len: int) -> None:
        """Make room for `target_len` tokens per hypothesis."""
        missing = target_len - self._token_ids.shape[2]
        if missing > 0:
            self._token_ids = torch.nn.functional.pad(self._token_ids, (0, missing))

    def _process(self, scores: Tensor) -> Tensor:
        """Apply the logits processors to [num_slots, num_beams, vocab], in place."""
        lengths = self._lengths[: self.num_slots]
        history = History(self._token_ids[: self.num_slots, :, : int(lengths.max())], lengths)
        for processor in self._processors:
            processor(scores, history)
        return scores

    def _in_prompt(self) -> Tensor:
        """[num_slots], on the CPU: slots whose next token is given, not chosen."""
        return self._lengths[: self.num_slots] < self._prompt_lens

    def _given(self) -> Tensor:
        """[num_slots, num_beams]: the next token of each slot that is in its prompt."""
        slots = torch.arange(self.num_slots, device=self._device)
        lengths = self._lengths[: self.num_slots].clamp(max=self._token_ids.shape[2] - 1)
        return self._token_ids[slots, :, lengths.to(self._device)]

    def _drawing(self) -> Iterator[tuple[int, torch.Generator]]:
        """Slots whose next token is drawn, and what to draw it with."""
        for slot, own in enumerate(self._slots):
            if own.generator is not None and self._lengths[slot] >= own.parameters.prompt_len:
                yield slot, own.generator

    def _append(self, token_ids: Tensor) -> None:
        """Add [num_slots, num_beams] tokens to the live hypotheses."""
        lengths = self._lengths[: self.num_slots]
        slots = torch.arange(self.num_slots, device=self._device)
        self._token_ids[slots, :, lengths.to(self._device)] = token_ids
        lengths += 1

    def _is_eos(self, token_ids: Tensor) -> Tensor:
        """Which of [num_slots, n] tokens end their hypothesis."""
        return (token_ids[:, :, None] == self._eos_token_ids[:, None]).any(-1)

    def _add_stopped(self, ended: Tensor, parents: Tensor | None, token_ids: Tensor) -> None:
        """Mark in `ended`, [num_slots, n], which candidates end with one of their stop strings.

        Args:
            ended: Changed in place.
            parents: [num_slots, n], rows that the candidates extend; None: candidate `i` row `i`.
            token_ids: [num_slots, n], their last tokens.
        """
        for slot, own in enumerate(self._slots):
            if own.stop is None or self._lengths[slot] < own.parameters.prompt_len:
                continue
            rows = self._token_ids[slot, :, : self._lengths[slot]]
            rows = rows if parents is None else rows[parents[slot]]
            candidates = torch.cat((rows, token_ids[slot, :, None]), dim=1)
            ended[slot] |= stops(own.stop, candidates)

    def _hypothesis(self, slot: int, token_ids: list[int], score: float) -> Hypothesis:
        parameters = self._slots[slot].parameters
        return Hypothesis(tuple(token_ids), score, finish_reason(token_ids, parameters))


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
    ) -> None:
        super().__init__(capacity, num_sequences, device, stop_strings)
        shape = (capacity, num_sequences)
        self._scores = torch.zeros(shape, device=device)
        self._ended = torch.zeros(shape, dtype=torch.bool, device=device)
        self._ended_lens = torch.zeros(shape, dtype=torch.long, device=device)
        self._pad_token_ids = torch.zeros(0, dtype=torch.long)

    def _choose(self, logits: Tensor) -> Choice:
        """See `Search`. Processors see raw logits, as in transformers' `_sample`."""
        num_slots = self.num_slots
        scores = self._process(logits.float().view(num_slots, self.num_beams, -1))
        token_ids = scores.argmax(-1)
        for slot, generator in self._drawing():
            probabilities = scores[slot].softmax(-1)
            token_ids[slot] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        chosen = scores.gather(2, token_ids[..., None])[..., 0] - scores.logsumexp(-1)

        in_prompt = self._in_prompt().to(self._device)[:, None]
        idle = self._ended[:num_slots] | in_prompt
        chosen = chosen.masked_fill(idle, 0)
        _check_finite(chosen)
        self._scores[:num_slots] += chosen
        token_ids = torch.where(in_prompt, self._given(), token_ids)
        token_ids = torch.where(self._ended[:num_slots], self._pad_token_ids, token_ids)
        return Choice(None, self._end(token_ids, in_prompt))

    def hypotheses(self, slot: int) -> tuple[Hypothesis, ...]:
        """See `Search`. Score: sum of log-probabilities / generated_len ** length_penalty.

        Drawn hypotheses come in the order of their rows, as from `generate()`.
        """
        parameters = self._slots[slot].parameters
        found = []
        for row, length in enumerate(self._ended_lens[slot].tolist()):
            token_ids = self._token_ids[slot, row, _START_LEN:length].tolist()
            penalty = (length - parameters.prompt_len) ** parameters.length_penalty
            found.append(
                self._hypothesis(slot, token_ids, float(self._scores[slot, row]) / penalty)
            )
        return tuple(found)

    def _end(self, token_ids: Tensor, in_prompt: Tensor) -> list[bool]:
        """Append the tokens, note which rows end with them, and tell which slots are done."""
        num_slots = self.num_slots
        ends = self._is_eos(token_ids)
        self._add_stopped(ends, None, token_ids)
        self._append(token_ids)
        lengths = self._lengths[:num_slots]
        ends |= (lengths >= self._max_lengths).to(self._device)[:, None]
        ends &= ~(in_prompt | self._ended[:num_slots])
        now = lengths.to(self._device)[:, None].expand_as(ends)
        self._ended_lens[:num_slots] = torch.where(ends, now, self._ended_lens[:num_slots])
        self._ended[:num_slots] |= ends
        done: list[bool] = self._ended[:num_slots].all(1).tolist()
        return done

    def _start(self, slot: int) -> None:
        self._scores[slot] = 0
        self._ended[slot] = False
        self._ended_lens[slot] = 0

    def _state(self) -> list[Tensor]:
        return [self._token_ids, self._scores, self._ended, self._ended_lens]

    def _refresh(self) -> None:
        super()._refresh()
        pads = [[slot.parameters.pad_token_id] for slot in self._slots]
        self._pad_token_ids = torch.tensor(pads, device=self._device)


class BeamSearch(Search):
    """Beam search with the candidate, length-penalty and stopping rules of transformers 5.

    `max(2, 1 + num_eos) * num_beams` candidates per request; those that end, and are among the
    first `num_beams`, compete for the finished hypotheses with their score divided by
    `generated_len ** length_penalty`; the best that do not end live on.
    """

    def __init__(
        self,
        capacity: int,
        num_beams: int,
        device: torch.device,
        stop_strings: StopStrings | None = None,
    ) -> None:
        super().__init__(capacity, num_beams, device, stop_strings)
        shape = (capacity, num_beams)
        self._live_scores = torch.zeros(shape, device=device)
        self._finished_scores = torch.zeros(shape, device=device)
        self._finished_lens = torch.zeros(shape, dtype=torch.long, device=device)
        self._is_finished = torch.zeros(shape, dtype=torch.bool, device=device)
        self._finished_ids = torch.zeros((*shape, 0), dtype=torch.long, device=device)

    def _choose(self, logits: Tensor) -> Choice:
        """See `Search`. Processors see log-probabilities, as in transformers' beam search."""
        num_slots = self.num_slots
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        log_probs = self._process(log_probs.view(num_slots, self.num_beams, -1))
        in_prompt = self._in_prompt()
        scores, parents, token_ids = self._candidates(log_probs, in_prompt)

        full = self._lengths[:num_slots] + 1 >= self._max_lengths
        ended = self._is_eos(token_ids)
        self._add_stopped(ended, parents, token_ids)
        ended |= full.to(self._device)[:, None]
        ended &= ~in_prompt.to(self._device)[:, None]
        self._finish(scores, parents, token_ids, ended)

        rank = torch.arange(scores.shape[1])
        extra = (rank >= self._num_candidates[:, None]).to(self._device)
        alive = (scores + ended * _IMPOSSIBLE).masked_fill(extra, -torch.inf)
        live_scores, best = alive.topk(self.num_beams)
        self._live_scores[:num_slots] = live_scores
        parents, token_ids = parents.gather(1, best), token_ids.gather(1, best)
        longest = int(self._lengths[:num_slots].max())
        self._token_ids[:num_slots, :, :longest] = _select(
            self._token_ids[:num_slots, :, :longest], parents
        )
        self._append(token_ids)
        none_goes_on = (ended | extra).all(-1)
        done = (self._is_decided() | none_goes_on).cpu() & ~in_prompt
        return Choice(parents, done.tolist())

    def _candidates(self, log_probs: Tensor, in_prompt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, parents and tokens of the continuations of each slot that are considered.

        Args:
            log_probs: [num_slots, num_beams, vocab], processed.
            in_prompt: [num_slots], on the CPU.

        Returns:
            Each [num_slots, num_candidates]; slots that consider fewer have some too many. A slot
            in its prompt has one candidate for each of its rows, with the token that is given.
        """
        num_slots, num_beams, vocab = log_probs.shape
        totals = (log_probs + self._live_scores[:num_slots, :, None]).view(num_slots, -1)
        scores, flat = totals.topk(int(self._num_candidates.max()))
        for slot, generator in self._drawing():
            num_drawn = int(self._num_candidates[slot])
            drawn = torch.multinomial(totals[slot].softmax(-1), num_drawn, generator=generator)
            flat[slot, :num_drawn] = drawn
            scores[slot, :num_drawn] = totals[slot, drawn]
        parents, token_ids = flat // vocab, flat % vocab
        if in_prompt.any():
            slots = in_prompt.nonzero()[:, 0].to(self._device)
            scores[slots] = -torch.inf
            scores[slots, :num_beams] = self._live_scores[slots]
            parents[slots, :num_beams] = torch.arange(num_beams, device=self._device)
            token_ids[slots, :num_beams] = self._given()[slots]
        _check_finite(scores.amax(1))
        return scores, parents, token_ids

    def hypotheses(self, slot: int) -> tuple[Hypothesis, ...]:
        """See `Search`. Scores are transformers' `sequences_scores`.

        Fewer than `num_return_sequences` where the search found no more: transformers then fills
        up with rows that never finished.
        """
        finished = int(self._is_finished[slot].sum())
        wanted = max(1, min(self._slots[slot].parameters.num_return_sequences, finished))
        lengths = self._finished_lens[slot, :wanted].tolist()
        scores = self._finished_scores[slot, :wanted].tolist()
        token_ids = self._finished_ids[slot, :wanted].tolist()
        return tuple(
            self._hypothesis(slot, token_ids[rank][_START_LEN : lengths[rank]], scores[rank])
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
        candidates = _select(self._token_ids[:num_slots, :, :longest], parents)
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
            state[:num_slots] = _select(torch.cat((state[:num_slots], new), dim=1), best)

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
        self._finished_lens[slot] = _START_LEN
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
        self._num_candidates = torch.tensor(
            [max(2, 1 + len(p.eos_token_ids)) * self.num_beams for p in parameters]
        )
        self._length_penalties = torch.tensor(
            [p.length_penalty for p in parameters], dtype=torch.float64, device=self._device
        )
        self._stops_early = torch.tensor(
            [p.early_stopping is True for p in parameters], device=self._device
        )
        self._assume_longest = torch.tensor(
            [p.early_stopping == "never" and p.length_penalty > 0 for p in parameters]
        )


def _check_finite(scores: Tensor) -> None:
    """Refuse to go on from scores of which one is NaN or infinite.

    What such a request has written into the caches must not stay there: whoever catches the error
    resets the runner.
    """
    if not bool(scores.isfinite().all()):
        raise NonFiniteScoreError("a request has no token with a finite score")


def _select(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `index` of each slot: [num_slots, n, ...], [num_slots, m] -> [num_slots, m, ...]."""
    if rows.dim() == 3:
        return rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))
    return rows.gather(1, index)
