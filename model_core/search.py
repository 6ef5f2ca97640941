"""How tokens are chosen, over the requests of a group: what every kind of search shares.

The rules are those of transformers 5: in `model_core.sampler` those of `_sample`, in
`model_core.beam_search` those of `_beam_search`, with every parameter per request, vectorised over
requests. Only what few requests ask for is done request by request: drawing tokens, each from a
generator of its own, and stop strings.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_core.generation import GenerationParameters
from model_core.logits import History, LogitsProcessor, build_processors
from model_core.own_processors import OwnProcessors
from model_core.request import Hypothesis, finish_reason
from model_core.stopping import StopStrings

_NO_TOKEN = -1
START_LEN = 1
"""Length of a target that holds the decoder start token only."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one step chose.

    Attributes:
        parents: [num_slots, num_beams], the row each new hypothesis extends; None where every
            row extends itself.
        done: Per slot, whether its request has ended.
        failed: Per slot, whether its request has no token with a finite score: it must leave.
    """

    parents: Tensor | None
    done: list[bool]
    failed: list[bool]


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


class Search(ABC):
    """The search state of one group of requests; slots `0 .. num_slots - 1` are in use.

    A slot begins with its prompt, which is given: the decoder start token and the target prefix.
    The steps through a prefix choose nothing and change no score.

    Args:
        capacity: Most slots.
        num_beams: Hypotheses per slot.
        device: Where the logits are.
        stop_strings: The checkpoint's; None where no request has any.
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
        self._lengths[slot] = START_LEN
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
        """
        if self._is_stale:
            self._refresh()
            self._is_stale = False
        return self._choose(logits)

    @abstractmethod
    def fits(self, parameters: GenerationParameters) -> bool:
        """Whether a request can join the group."""

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
        generator = None
        if parameters.do_sample:
            generator = torch.Generator(self._device).manual_seed(parameters.seed)
        processors = OwnProcessors.build(parameters, source_ids, self._device)
        return _Slot(parameters, processors, generator)

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
        """Apply the logits processors to [num_slots, num_beams, vocab], which may be changed."""
        lengths = self._lengths[: self.num_slots]
        history = History(self._token_ids[: self.num_slots, :, : int(lengths.max())], lengths)
        for processor in self._processors:
            scores = processor(scores, history)
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
        if self._stop_strings is None:
            return
        for slot, own in enumerate(self._slots):
            strings, length = own.parameters.stop_strings, int(self._lengths[slot])
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

    def _hypothesis(self, slot: int, token_ids: list[int], score: float) -> Hypothesis:
        parameters = self._slots[slot].parameters
        return Hypothesis(tuple(token_ids), score, finish_reason(token_ids, parameters))
