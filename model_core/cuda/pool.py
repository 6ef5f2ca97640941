"""Slots of one beam width, whose steps may be captured: one launch for each bucket of slots."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model_core.cuda.attention import PagedAttention, SlotContext
from model_core.cuda.device import Device, Fetched, Mark, Part
from model_core.cuda.pages import PageArena, SlotPages, num_pages_for
from model_core.cuda.processors import Kind
from model_core.cuda.slots import SlotTable
from model_core.decoder import Decoder
from model_core.generation import GenerationParameters
from model_core.group import Chosen
from model_core.request import Output, Request
from model_core.search import START_LEN, Choice, Search


@dataclass(frozen=True, slots=True)
class Place:
    """What the pools of a checkpoint share.

    Attributes:
        decoder: The lean decoder.
        arena: Its pages.
        attention: How to attend over them.
        device: Where.
        num_slots: Most requests of a pool.
        max_source_len: Longest source.
        max_target_len: Longest target.
    """

    decoder: Decoder
    arena: PageArena
    attention: PagedAttention
    device: Device
    num_slots: int
    max_source_len: int
    max_target_len: int


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step whose end the host has not seen yet.

    Attributes:
        requests: By slot, as they were then.
        begun: Before the step, and behind all that moved slots before it.
        flags: [2, num_slots]: whose request has ended, and whose failed.
    """

    requests: tuple[Request, ...]
    begun: Mark
    flags: Fetched


class Pool:
    """Requests of one beam width; slots in use are the first ones.

    The host launches a step before it knows who ended in the last one: `collect` tells that one
    step late. A slot whose request has ended stays as it is until then.

    Args:
        place: Shared by the pools of a checkpoint.
        search: Decides the tokens; gives the beam width. A fixed one, if steps are to be captured.
        kind: Of the requests that may join; None for any that fits the search.
    """

    def __init__(self, place: Place, search: Search, kind: Kind | None = None) -> None:
        self.search = search
        self._kind = kind
        self.requests: list[Request] = []
        self._place = place
        self._pages: list[SlotPages] = []
        num_beams = search.num_beams
        torch_device = place.arena.keys.device
        self._table = SlotTable(
            place.num_slots,
            num_beams,
            max_target_len=place.max_target_len,
            max_source_pages=num_pages_for(place.max_source_len),
            max_target_pages=num_pages_for(place.max_target_len * num_beams),
            device=torch_device,
        )
        self._last_ids = torch.zeros(
            (place.num_slots, num_beams), dtype=torch.long, device=torch_device
        )
        self._steps: dict[int, Part] = {}
        self._launched: _Launched | None = None
        self._expected: _Launched | None = None

    @property
    def num_rows(self) -> int:
        """Hypotheses in use."""
        return len(self.requests) * self.search.num_beams

    @property
    def num_entries(self) -> int:
        """Keys of all slots in one layer, of sources and targets; asks the device."""
        table = self._table
        in_use = table.lengths > 0
        per_slot = table.source_lens + table.lengths * self.search.num_beams
        return int((per_slot * in_use).sum())

    @property
    def is_full(self) -> bool:
        """Whether every slot is taken."""
        return len(self.requests) == self._place.num_slots

    def takes(self, parameters: GenerationParameters) -> bool:
        """Whether a request can join now."""
        is_alike = self.search.fits(parameters)
        return is_alike and not self.is_full and (not self._kind or self._kind.covers(parameters))

    def capture(self, buckets: Sequence[int]) -> None:
        """Make a step of so many slots one launch each. No slot may be in use."""
        for bucket in sorted(buckets, reverse=True):  # the largest takes the memory for all
            self._steps[bucket] = self._place.device.capture(partial(self.step, bucket))

    def admit(self, request: Request, pages: SlotPages) -> None:
        """Give a request the next slot; its source is in its pages."""
        slot = self.search.admit(request.parameters, request.source_ids)
        self.requests.append(request)
        self._pages.append(pages)
        self._table.put(slot, START_LEN, request.source_len, pages)
        self._last_ids[slot] = request.parameters.decoder_start_token_id

    def remove(self, request: Request) -> None:
        """Free the slot of a request and its pages; the last slot moves into the hole."""
        slot, last = self.requests.index(request), len(self.requests) - 1
        self._place.arena.free(self._pages[slot])
        last_request, last_pages = self.requests.pop(), self._pages.pop()
        if slot != last:
            self.requests[slot], self._pages[slot] = last_request, last_pages
            self._table.move(last, slot)
            self._last_ids[slot] = self._last_ids[last]
        self._table.clear(last)
        self.search.remove(slot)

    def clear(self) -> None:
        """Free every slot."""
        for request in reversed(self.requests.copy()):
            self.remove(request)
        self._launched = self._expected = None

    def launch(self) -> None:
        """Begin a step of every slot in use."""
        device, num_slots = self._place.device, len(self.requests)
        begun = device.mark()
        bucket = min((each for each in self._steps if each >= num_slots), default=0)
        if bucket:
            self.search.prepare()
            flags = self._steps[bucket]()[:, :num_slots]
        else:
            choice = self.choose(self.forward(num_slots))
            flags = torch.stack((choice.done, choice.failed))
        launched = _Launched(tuple(self.requests), begun, device.fetch(flags))
        self._expected, self._launched = self._launched, launched

    def choose(self, logits: Tensor) -> Choice:
        """Let the search choose the next tokens of every slot in use."""
        choice = self.search.advance(logits)
        self._continue(choice)
        return choice

    def collect(self) -> Chosen:
        """Who left in the step before the one that was launched last; their slots are free."""
        chosen, launched = Chosen(), self._expected
        self._expected = None
        if launched is None or self._launched is None:
            return chosen
        done, failed = launched.flags.get().tolist()
        # Not behind the step that is under way, but behind moves since the one that ended.
        with self._place.device.reading(self._launched.begun):
            for slot, request in enumerate(launched.requests):
                if (done[slot] or failed[slot]) and request in self.requests:
                    self._end(request, chosen, failed=failed[slot])
        for request in (*chosen.failed, *(request for request, _ in chosen.finished)):
            self.remove(request)
        return chosen

    def _end(self, request: Request, chosen: Chosen, *, failed: bool) -> None:
        hypotheses = () if failed else self.search.hypotheses(self.requests.index(request))
        if hypotheses:
            chosen.finished.append((request, Output.of(request, hypotheses)))
        else:
            chosen.failed.append(request)

    def context(self, num_slots: int) -> SlotContext:
        """What the first slots attend to."""
        place = self._place
        return SlotContext(
            place.arena,
            self._table,
            num_slots,
            self.search.num_beams,
            place.attention,
            place.decoder.position_biases,
        )

    def step(self, num_slots: int) -> Tensor:
        """A step of the first slots; [2, num_slots]: whose request has ended, and whose failed."""
        choice = self.search.choose(self.forward(num_slots))
        self._continue(choice)
        return torch.stack((choice.done, choice.failed))

    def _continue(self, choice: Choice) -> None:
        if choice.parents is not None:
            self._table.choose_parents(choice.parents)
        num_slots = len(choice.done)
        self._last_ids[:num_slots] = self.search.last_token_ids_of(num_slots)

    def forward(self, num_slots: int) -> Tensor:
        """Logits of the first slots, [num_rows, vocab]; their targets are a token longer then."""
        place, table, num_beams = self._place, self._table, self.search.num_beams
        table.note_writers(num_slots)
        positions = (table.lengths[:num_slots] - 1).clamp(min=0).long()
        logits = place.decoder.step(
            self._last_ids[:num_slots].flatten(),
            positions[:, None].expand(-1, num_beams).flatten(),
            [self.context(num_slots)],
        )
        table.advance(num_slots)
        return logits
