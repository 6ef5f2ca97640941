"""How tokens are chosen, over the requests of a group: what every kind of search shares.

The rules are those of transformers 5: in `model_core.sampler` those of `_sample`, in
`model_core.beam_search` those of `_beam_search`, with every parameter per request, vectorised over
requests. Only what few requests ask for is done request by request: drawing tokens, each from a
generator of its own, and stop strings.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from model_core.generation import GenerationParameters
from model_core.logits import History, LogitsProcessor, build_processors
from model_core.own_processors import OwnProcessors
from model_core.request import Hypothesis, finish_reason
from model_core.slot_moves import Moves, move_rows, moves_into_holes
from model_core.stopping import StopStrings
from model_core.transfer import to_device

_NO_TOKEN = -1
START_LEN = 1
"""Length of a target that holds the decoder start token only."""

Newcomer = tuple[GenerationParameters, Sequence[int]]
"""What a request wants, and its source tokens."""
Ended = tuple[int, GenerationParameters]
"""A slot, and what its request wanted."""
Hypotheses = tuple[Hypothesis, ...]
"""Of one request."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one step chose.

    Attributes:
        parents: [num_slots, num_beams], the row each new hypothesis extends; None where every
            row extends itself.
        done: [num_slots], whether a request has ended.
        failed: [num_slots], whether a request has no token with a finite score: it must leave.
    """

    parents: Tensor | None
    done: Tensor
    failed: Tensor


@dataclass(frozen=True, slots=True)
class _Slot:
    """What one request brings along.

    Attributes:
        parameters: Of the request.
        processors: Logits processors that are not vectorised.
        generator: What its tokens are drawn with, where they are drawn.
    """

    parameters: GenerationParameters
    processors: OwnProcessors
    generator: torch.Generator | None


Ranked = tuple[Tensor, Tensor, Tensor]
"""Scores, parents and tokens of the best continuations of each slot, [num_slots, n] each."""


class FixedChoice(Protocol):
    """Logits processors of a fixed search and what is best after them.

    Over buffers of its whole capacity. Logits may be changed; their rows may lie further apart than
    they are long.

    Attributes:
        max_length: Longest target.
        num_eos: Most EOS tokens of a request.
    """

    max_length: int
    num_eos: int

    def put(self, parameters: Sequence[GenerationParameters]) -> None:
        """Set what the requests of the first slots want."""

    def likeliest(
        self, logits: Tensor, token_ids: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The likeliest token of each row and its log-probability; processors see logits.

        Args:
            logits: [num_slots, num_beams, vocab].
            token_ids: [num_slots, num_beams, max_length + 1].
            lengths: [num_slots], tokens of each target.

        Returns:
            Both [num_slots, num_beams].
        """

    def best(
        self,
        logits: Tensor,
        live_scores: Tensor,
        num_candidates: int,
        token_ids: Tensor,
        lengths: Tensor,
    ) -> Ranked:
        """The best continuations of each slot; processors see log-probabilities.

        Args:
            logits: [num_slots, num_beams, vocab].
            live_scores: [num_slots, num_beams], of each hypothesis so far.
            num_candidates: How many are wanted of each slot.
            token_ids: See `likeliest`.
            lengths: See `likeliest`.

        Returns:
            See `Ranked`.
        """


class Search(ABC):
    """The search state of one group of requests; slots `0 .. num_slots - 1` are in use.

    A slot begins with its prompt, which is given: the decoder start token and the target prefix.
    The steps through a prefix choose nothing and change no score. A slot that is done stays as it
    is, should it go on before it is removed.

    A *fixed* search runs the same operations in every step over tensors that never move, whoever is
    in it, and asks the device nothing: a step of it can be captured once and launched again.

    Args:
        capacity: Most slots.
        num_beams: Hypotheses per slot.
        device: Where the logits are.
        stop_strings: The checkpoint's; None where no request has any.
        fixed: What ranks in a fixed search; None for one that is not.
    """

    def __init__(
        self,
        capacity: int,
        num_beams: int,
        device: torch.device,
        stop_strings: StopStrings | None = None,
        fixed: FixedChoice | None = None,
    ) -> None:
        self.num_beams = num_beams
        self._device = device
        self._stop_strings = stop_strings
        self._slots: list[_Slot] = []
        self._processors: tuple[LogitsProcessor, ...] = ()
        self._is_stale = False
        # The host knows the lengths without looking at the device: all grow by one in a step.
        self._host_lengths: list[int] = []
        self._lengths = torch.zeros(capacity, dtype=torch.long, device=device)
        self._prompt_lens = torch.zeros(capacity, dtype=torch.long, device=device)
        self._max_lengths = torch.zeros(capacity, dtype=torch.long, device=device)
        self._is_done = torch.zeros(capacity, dtype=torch.bool, device=device)
        num_eos = 1 if fixed is None else max(1, fixed.num_eos)
        self._eos_token_ids = torch.full((capacity, num_eos), _NO_TOKEN, device=device)
        self._token_ids = torch.zeros((capacity, num_beams, 0), dtype=torch.long, device=device)
        self._fixed = fixed
        if fixed is not None:
            self._reserve(fixed.max_length)

    @property
    def num_slots(self) -> int:
        """Slots in use."""
        return len(self._slots)

    @property
    def positions(self) -> Tensor:
        """[num_slots], on the CPU: target position of the last token of each slot.

        As far as steps went through `advance`: what was captured does not tell the host.
        """
        return torch.tensor(self._host_lengths) - 1

    @property
    def last_token_ids(self) -> Tensor:
        """[num_slots, num_beams]: the token that the next step feeds for each hypothesis."""
        return self.last_token_ids_of(self.num_slots)

    def last_token_ids_of(self, num_slots: int) -> Tensor:
        """The same of the first slots, in use or not."""
        last = (self._lengths[:num_slots] - 1).clamp(min=0)
        return self._at(last, num_slots)

    def admit(self, newcomers: Sequence[Newcomer]) -> range:
        """Give requests the next free slots; returns the slots."""
        slots = range(self.num_slots, self.num_slots + len(newcomers))
        if not newcomers:
            return slots
        self._reserve(max(parameters.max_length for parameters, _ in newcomers))
        self._slots += [self._new_slot(*newcomer) for newcomer in newcomers]
        self._host_lengths += [START_LEN] * len(newcomers)
        rows = slice(slots.start, slots.stop)
        self._lengths[rows] = START_LEN
        self._is_done[rows] = False
        prompts = [parameters.prompt_ids for parameters, _ in newcomers]
        longest = max(map(len, prompts))
        # What lies behind a target's length is never looked at.
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        prompt_ids = to_device(torch.tensor(padded), self._device)
        self._token_ids[rows, :, :longest] = prompt_ids[:, None]
        self._start(rows)
        self._is_stale = True
        return slots

    def remove(self, slots: Collection[int]) -> Moves:
        """Free slots: the last ones move into the holes, as is returned."""
        moves = moves_into_holes(self.num_slots, slots)
        move_rows(moves, self._lengths, self._is_done, *self._state())
        for hole, last in moves:
            self._slots[hole], self._host_lengths[hole] = (
                self._slots[last],
                self._host_lengths[last],
            )
        num_kept = self.num_slots - len(slots)
        del self._slots[num_kept:], self._host_lengths[num_kept:]
        self._is_stale = True
        return moves

    def advance(self, logits: Tensor) -> Choice:
        """Choose the next token of every live hypothesis.

        Args:
            logits: [num_slots * num_beams, vocab]; changed in place.
        """
        self.prepare()
        choice = self.choose(logits)
        longest = self._token_ids.shape[2] - 1
        self._host_lengths = [min(length + 1, longest) for length in self._host_lengths]
        return choice

    def prepare(self) -> None:
        """Make ready for a step, if requests came or left since the last one."""
        if self._is_stale and self._slots:
            self._refresh()
            self._is_stale = False

    def choose(self, logits: Tensor) -> Choice:
        """What of `advance` happens on the device: all of it, in a fixed search.

        Args:
            logits: [num_slots * num_beams, vocab], of slots in use or not; changed in place.
        """
        choice = self._choose(logits)
        self._is_done[: len(choice.done)] |= choice.done
        return choice

    def are_done(self, num_slots: int) -> Tensor:
        """[num_slots]: of the first slots those whose request has ended."""
        return self._is_done[:num_slots]

    @abstractmethod
    def fits(self, parameters: GenerationParameters) -> bool:
        """Whether a request can join the group."""

    @abstractmethod
    def _choose(self, logits: Tensor) -> Choice:
        """See `choose`."""

    def hypotheses(self, slot: int) -> Hypotheses:
        """The results of a slot whose request has ended, best first."""
        (found,) = self.read(self.results, [(slot, self._slots[slot].parameters)])
        return found

    @property
    @abstractmethod
    def results(self) -> tuple[Tensor, ...]:
        """What hypotheses are read from; of each the first dimension is the slot."""

    @abstractmethod
    def read(self, results: Sequence[Tensor], ended: Sequence[Ended]) -> list[Hypotheses]:
        """The results of requests that have ended, best first.

        Args:
            results: As they were when a step had ended, or are.
            ended: Of each request its slot then, and its parameters.
        """

    @abstractmethod
    def _start(self, rows: slice) -> None:
        """Set the search's own state of new slots."""

    @abstractmethod
    def _state(self) -> list[Tensor]:
        """Every tensor whose first dimension is the slot, apart from those of every search."""

    def _new_slot(self, parameters: GenerationParameters, source_ids: Sequence[int]) -> _Slot:
        generator = None
        if parameters.do_sample:
            generator = torch.Generator(self._device).manual_seed(parameters.seed)
        processors = OwnProcessors.build(parameters, source_ids, self._device)
        return _Slot(parameters, processors, generator)

    def _refresh(self) -> None:
        """Rebuild what depends on which requests are in the group: once per step at most."""
        parameters = [slot.parameters for slot in self._slots]
        if self._fixed is None:
            own = [slot.processors for slot in self._slots]
            self._processors = build_processors(parameters, own, self._device)
        else:
            self._fixed.put(parameters)
        self._put(self._prompt_lens, [p.prompt_len for p in parameters])
        self._put(self._max_lengths, [p.max_length for p in parameters])
        most = max(len(p.eos_token_ids) for p in parameters)
        missing = most - self._eos_token_ids.shape[1]
        if missing > 0:
            self._eos_token_ids = torch.nn.functional.pad(
                self._eos_token_ids, (0, missing), value=_NO_TOKEN
            )
        most = self._eos_token_ids.shape[1]
        eos = [[*p.eos_token_ids, *[_NO_TOKEN] * (most - len(p.eos_token_ids))] for p in parameters]
        self._put(self._eos_token_ids, eos)

    def _put(self, buffer: Tensor, values: Sequence[object]) -> None:
        """Set the first slots of a buffer, [capacity, ...]."""
        buffer[: len(values)] = to_device(torch.tensor(values, dtype=buffer.dtype), self._device)

    def _reserve(self, target_len: int) -> None:
        """Make room for `target_len` tokens per hypothesis.

        And for one more: a slot that is done goes on until the host knows.
        """
        missing = target_len + 1 - self._token_ids.shape[2]
        if missing > 0:
            self._token_ids = torch.nn.functional.pad(self._token_ids, (0, missing))

    @property
    def _longest(self) -> int:
        """Most tokens that a target may have so far."""
        return max(self._host_lengths) if self._fixed is None else self._token_ids.shape[2] - 1

    def _at(self, places: Tensor, num_slots: int) -> Tensor:
        """[num_slots, num_beams]: tokens at one place of each of the first slots."""
        index = places[:, None, None].expand(-1, self.num_beams, 1)
        return self._token_ids[:num_slots].gather(2, index)[..., 0]

    def _process(self, scores: Tensor) -> Tensor:
        """Apply the logits processors to [num_slots, num_beams, vocab], which may be changed.

        In a search that is not fixed.
        """
        history = History(
            self._token_ids[: self.num_slots, :, : self._longest], torch.tensor(self._host_lengths)
        )
        for processor in self._processors:
            scores = processor(scores, history)
        return scores

    def _may_be_in_prompt(self) -> bool:
        """Whether the next token of any slot is given, as far as the host knows."""
        return self._fixed is not None or any(
            length < own.parameters.prompt_len
            for length, own in zip(self._host_lengths, self._slots, strict=True)
        )

    def _in_prompt(self, num_slots: int) -> Tensor:
        """[num_slots]: slots whose next token is given, not chosen."""
        return self._lengths[:num_slots] < self._prompt_lens[:num_slots]

    def _given(self, num_slots: int) -> Tensor:
        """[num_slots, num_beams]: the next token of each slot that is in its prompt."""
        return self._at(self._lengths[:num_slots], num_slots)

    def _drawing(self) -> Iterator[tuple[int, torch.Generator]]:
        """Slots whose next token is drawn, and what to draw it with."""
        for slot, own in enumerate(self._slots):
            is_chosen = self._host_lengths[slot] >= own.parameters.prompt_len
            if own.generator is not None and is_chosen:
                yield slot, own.generator

    def _append(self, token_ids: Tensor) -> None:
        """Add [num_slots, num_beams] tokens to the live hypotheses."""
        num_slots = token_ids.shape[0]
        lengths = self._lengths[:num_slots]
        index = lengths[:, None, None].expand(-1, self.num_beams, 1)
        self._token_ids[:num_slots].scatter_(2, index, token_ids[..., None])
        lengths.add_(1).clamp_(max=self._token_ids.shape[2] - 1)

    def _is_eos(self, token_ids: Tensor) -> Tensor:
        """Which of [num_slots, n] tokens end their hypothesis."""
        eos_token_ids = self._eos_token_ids[: token_ids.shape[0], None]
        return (token_ids[:, :, None] == eos_token_ids).any(-1)

    def _add_stopped(self, ended: Tensor, parents: Tensor | None, token_ids: Tensor) -> None:
        """Mark in `ended`, [num_slots, n], which candidates end with one of their stop strings.

        Args:
            ended: Changed in place.
            parents: [num_slots, n], rows that the candidates extend; None: candidate `i` row `i`.
            token_ids: [num_slots, n], their last tokens.
        """
        if self._stop_strings is None:
            return
        for slot, own in enumerate(self._slots):
            strings, length = own.parameters.stop_strings, self._host_lengths[slot]
            if not strings or length < own.parameters.prompt_len:
                continue
            rows = self._token_ids[slot, :, :length].tolist()
            origins = range(len(rows)) if parents is None else parents[slot].tolist()
            last_ids = token_ids[slot].tolist()
            ended[slot] |= torch.tensor(
                [
                    self._stop_strings.ends(strings, [*rows[row], last_id])
                    for row, last_id in zip(origins, last_ids, strict=True)
                ],
                device=self._device,
            )


def log_softmax(scores: Tensor) -> Tensor:
    """Log-probabilities in float32, of [..., vocab]; in place where they can be.

    Fresh memory is slow. CUDA's kernel writes rows that follow one another, wherever it is told to.
    """
    if scores.dtype == torch.float32 and scores.is_contiguous():
        return torch.log_softmax(scores, dim=-1, out=scores)
    return torch.log_softmax(scores, dim=-1, dtype=torch.float32)


def hypothesis(parameters: GenerationParameters, token_ids: list[int], score: float) -> Hypothesis:
    """One result, of the target tokens behind the decoder start token."""
    return Hypothesis(tuple(token_ids), score, finish_reason(token_ids, parameters))


def lists_of(slots: Sequence[int], states: Sequence[Tensor]) -> list[list[Any]]:
    """What some slots have in tensors whose first dimension is the slot: a list for each."""
    index = to_device(torch.tensor(slots, dtype=torch.long), states[0].device)
    return [state[index].tolist() for state in states]
