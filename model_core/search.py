"""How tokens are chosen: greedy and beam search, vectorised over the requests of a group.

The rules are those of transformers 5 (`GenerationMixin._sample` and `_beam_search`), with every
parameter per request. All requests of a group have the same `num_beams`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from model_core.errors import NonFiniteScoreError
from model_core.generation import GenerationParameters
from model_core.logits import History, LogitsProcessor, build_processors
from model_core.request import Hypothesis, finish_reason

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


class Search(ABC):
    """The search state of one group of requests; slots `0 .. num_slots - 1` are in use.

    Args:
        capacity: Most slots.
        num_beams: Hypotheses per slot.
        device: Where the logits are.
    """

    def __init__(self, capacity: int, num_beams: int, device: torch.device) -> None:
        self.num_beams = num_beams
        self._device = device
        self._parameters: list[GenerationParameters] = []
        self._processors: tuple[LogitsProcessor, ...] = ()
        self._is_stale = False
        # Lengths and limits live on the CPU: they are known without looking at the device.
        self._lengths = torch.zeros(capacity, dtype=torch.long)
        self._max_lengths = torch.zeros(0, dtype=torch.long)
        self._eos_token_ids = torch.zeros((0, 0), dtype=torch.long)
        self._token_ids = torch.zeros((capacity, num_beams, 0), dtype=torch.long, device=device)

    @property
    def num_slots(self) -> int:
        """Slots in use."""
        return len(self._parameters)

    @property
    def positions(self) -> Tensor:
        """[num_slots], on the CPU: target position of the last token of each slot."""
        return self._lengths[: self.num_slots] - 1

    @property
    def last_token_ids(self) -> Tensor:
        """[num_slots, num_beams]: the token that the next step feeds for each hypothesis."""
        slots = torch.arange(self.num_slots, device=self._device)
        return self._token_ids[slots, :, self.positions.to(self._device)]

    def admit(self, parameters: GenerationParameters) -> int:
        """Give a request the next free slot; returns the slot."""
        slot = self.num_slots
        self._reserve(parameters.max_length)
        self._parameters.append(parameters)
        self._lengths[slot] = _START_LEN
        self._token_ids[slot, :, 0] = parameters.decoder_start_token_id
        self._start(slot)
        self._is_stale = True
        return slot

    def remove(self, slot: int) -> None:
        """Free a slot: the last slot moves into the hole."""
        last = self.num_slots - 1
        self._parameters[slot] = self._parameters[last]
        for state in (self._lengths, *self._state()):
            state[slot] = state[last]
        self._parameters.pop()
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

    def _refresh(self) -> None:
        """Rebuild what depends on which requests are in the group: once per step at most."""
        self._processors = build_processors(self._parameters, self._device)
        self._max_lengths = torch.tensor([p.max_length for p in self._parameters])
        most = max(1, max(len(p.eos_token_ids) for p in self._parameters))
        self._eos_token_ids = torch.tensor(
            [
                [*p.eos_token_ids, *[_NO_TOKEN] * (most - len(p.eos_token_ids))]
                for p in self._parameters
            ],
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

    def _append(self, token_ids: Tensor) -> None:
        """Add [num_slots, num_beams] tokens to the live hypotheses."""
        lengths = self._lengths[: self.num_slots]
        slots = torch.arange(self.num_slots, device=self._device)
        self._token_ids[slots, :, lengths.to(self._device)] = token_ids
        lengths += 1

    def _is_eos(self, token_ids: Tensor) -> Tensor:
        """Which of [num_slots, n] tokens end their hypothesis."""
        return (token_ids[:, :, None] == self._eos_token_ids[:, None]).any(-1)

    def _hypothesis(self, slot: int, token_ids: list[int], score: float) -> Hypothesis:
        parameters = self._parameters[slot]
        return Hypothesis(tuple(token_ids), score, finish_reason(token_ids, parameters))


class GreedySearch(Search):
    """The likeliest token at each step; `num_beams` is 1."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        super().__init__(capacity, 1, device)
        self._scores = torch.zeros(capacity, device=device)

    def _choose(self, logits: Tensor) -> Choice:
        """See `Search`. Processors see raw logits, as in transformers' greedy search."""
        scores = self._process(logits.float()[:, None])
        token_ids = scores.argmax(-1)
        chosen = scores.gather(2, token_ids[..., None])[..., 0] - scores.logsumexp(-1)
        _check_finite(chosen[:, 0])
        self._scores[: self.num_slots] += chosen[:, 0]
        self._append(token_ids)
        full = self._lengths[: self.num_slots] >= self._max_lengths
        ended = self._is_eos(token_ids)[:, 0] | full.to(self._device)
        return Choice(None, ended.tolist())

    def hypotheses(self, slot: int) -> tuple[Hypothesis, ...]:
        """See `Search`. Score: sum of log-probabilities / generated_len ** length_penalty."""
        token_ids = self._token_ids[slot, 0, _START_LEN : self._lengths[slot]].tolist()
        penalty = len(token_ids) ** self._parameters[slot].length_penalty
        return (self._hypothesis(slot, token_ids, float(self._scores[slot]) / penalty),)

    def _start(self, slot: int) -> None:
        self._scores[slot] = 0

    def _state(self) -> list[Tensor]:
        return [self._token_ids, self._scores]


class BeamSearch(Search):
    """Beam search with the candidate, length-penalty and stopping rules of transformers 5.

    `max(2, 1 + num_eos) * num_beams` candidates per request; those that end, and are among the
    first `num_beams`, compete for the finished hypotheses with their score divided by
    `generated_len ** length_penalty`; the best that do not end live on.
    """

    def __init__(self, capacity: int, num_beams: int, device: torch.device) -> None:
        super().__init__(capacity, num_beams, device)
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
        vocab = log_probs.shape[2]
        totals = log_probs + self._live_scores[:num_slots, :, None]
        scores, flat = totals.view(num_slots, -1).topk(int(self._num_candidates.max()))
        _check_finite(scores[:, 0])
        parents, token_ids = flat // vocab, flat % vocab

        full = self._lengths[:num_slots] + 1 >= self._max_lengths
        ended = self._is_eos(token_ids) | full.to(self._device)[:, None]
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
        return Choice(parents, (self._is_decided() | none_goes_on).tolist())

    def hypotheses(self, slot: int) -> tuple[Hypothesis, ...]:
        """See `Search`. Scores are transformers' `sequences_scores`.

        Fewer than `num_return_sequences` where the search found no more: transformers then fills
        up with rows that never finished.
        """
        finished = int(self._is_finished[slot].sum())
        wanted = max(1, min(self._parameters[slot].num_return_sequences, finished))
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
        penalised = scores / self._length_factor(lengths)[:, None] + ~eligible * _IMPOSSIBLE
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
        best_lens = torch.where(self._assume_longest, self._max_lengths, lengths) - _START_LEN
        factor = self._length_factor(best_lens.to(self._device))
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
        parameters = self._parameters
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


def _check_finite(best_scores: Tensor) -> None:
    """Refuse to go on from [num_slots] scores of which one is NaN or infinite.

    What such a request has written into the caches must not stay there: whoever catches the error
    resets the runner.
    """
    if not bool(best_scores.isfinite().all()):
        raise NonFiniteScoreError("a request has no token with a finite score")


def _select(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `index` of each slot: [num_slots, n, ...], [num_slots, m] -> [num_slots, m, ...]."""
    if rows.dim() == 3:
        return rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))
    return rows.gather(1, index)
