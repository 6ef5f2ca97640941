"""Slots of one beam width, whose steps may be captured: one launch for each bucket of slots."""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model_core.cuda.attention import PagedAttention, SlotContext
from model_core.cuda.device import Device, Fetched, Part
from model_core.cuda.pages import PageArena, SlotPages, num_pages_for
from model_core.cuda.processors import Kind
from model_core.cuda.slots import SlotTable
from model_core.decoder import Decoder
from model_core.generation import GenerationParameters
from model_core.group import Chosen
from model_core.request import Output, Request
from model_core.search import START_LEN, Choice, Search
from model_core.slot_moves import move_rows
from model_core.transfer import to_device


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


STEPS_AHEAD = 3
"""Steps that may be under way when the host goes on; with one more it waits for the oldest.

So many are done while the host deals with those who come and go, which takes it some milliseconds.
"""


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step whose end the host has not seen yet.

    Attributes:
        requests: By slot, as they were then.
        results: What the search had found behind it; see `Search.results`.
        flags: [2, num_slots]: whose request has ended, and whose failed; fetched behind `results`.
    """

    requests: tuple[Request, ...]
    results: tuple[Tensor, ...]
    flags: Fetched


class Pool:
    """Requests of one beam width; slots in use are the first ones.

    The host launches steps before it knows who ended in the last ones: `collect` tells that as many
    steps late as are under way then. A slot whose request has ended stays as it is until then.

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
        self._under_way: deque[_Launched] = deque()

    @property
    def num_rows(self) -> int:
        """Hypotheses in use."""
        return len(self.requests) * self.search.num_beams

    @property
    def num_entries(self) -> int:
        """Keys of all slots in one layer, of sources and targets; asks the device."""
        table = self._table
        return int((table.source_lens + table.lengths * self.search.num_beams).sum())

    @property
    def num_under_way(self) -> int:
        """Steps whose end the host has not seen yet."""
        return len(self._under_way)

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
        """Give a request the next slot; its source is in its pages, once the next step begins."""
        self.requests.append(request)
        self._pages.append(pages)

    def seat(self) -> None:
        """Tell the device of all who were admitted since the last time, at once."""
        newcomers = self.requests[self.search.num_slots :]
        if not newcomers:
            return
        slots = self.search.admit([(each.parameters, each.source_ids) for each in newcomers])
        lengths = [each.source_len for each in newcomers]
        pages = self._pages[slots.start :]
        self._table.put(slots.start, START_LEN, list(zip(lengths, pages, strict=True)))
        first_ids = torch.tensor([each.parameters.decoder_start_token_id for each in newcomers])
        first_ids = to_device(first_ids, self._last_ids.device)
        self._last_ids[slots.start : slots.stop] = first_ids[:, None]

    def remove(self, requests: Collection[Request]) -> None:
        """Free the slots of requests and their pages; the last slots move into the holes."""
        if not requests:
            return
        self.seat()
        gone = set(requests)
        slots = [slot for slot, request in enumerate(self.requests) if request in gone]
        for slot in slots:
            self._place.arena.free(self._pages[slot])
        num_slots, num_kept = len(self.requests), len(self.requests) - len(slots)
        moves = self.search.remove(slots)
        for hole, last in moves:
            self.requests[hole], self._pages[hole] = self.requests[last], self._pages[last]
        del self.requests[num_kept:], self._pages[num_kept:]
        self._table.move(moves)
        move_rows(moves, self._last_ids)
        self._table.clear(num_kept, num_slots)
        if not self.requests:
            self._under_way.clear()  # nobody asks for their ends

    def clear(self) -> None:
        """Forget every request, whatever an error has left; their pages are the caller's."""
        self.search.remove(range(self.search.num_slots))
        self.requests.clear()
        self._pages.clear()
        self._under_way.clear()
        self._table.clear_all()

    def launch(self) -> None:
        """Begin a step of every slot in use."""
        self.seat()
        device, num_slots = self._place.device, len(self.requests)
        bucket = min((each for each in self._steps if each >= num_slots), default=0)
        if bucket:
            self.search.prepare()
            flags = self._steps[bucket]()[:, :num_slots]
        else:
            choice = self.choose(self.forward(num_slots))
            flags = torch.stack((choice.done, choice.failed))
        # Copied before the flags are fetched: who has seen them may read these on any stream.
        results = tuple(each[:num_slots].clone() for each in self.search.results)
        self._under_way.append(_Launched(tuple(self.requests), results, device.fetch(flags)))

    def choose(self, logits: Tensor) -> Choice:
        """Let the search choose the next tokens of every slot in use."""
        choice = self.search.advance(logits)
        self._continue(choice)
        return choice

    def collect(self) -> Chosen:
        """Who left in steps that have ended, as far as is known; their slots are free."""
        chosen, under_way = Chosen(), self._under_way
        while under_way and (len(under_way) > STEPS_AHEAD or under_way[0].flags.is_there()):
            self._collect(under_way.popleft(), chosen)
        return chosen

    def _collect(self, launched: _Launched, chosen: Chosen) -> None:
        done, failed = launched.flags.get().tolist()
        running = set(self.requests)
        ended = [
            (slot, request)
            for slot, request in enumerate(launched.requests)
            if (done[slot] or failed[slot]) and request in running
        ]
        answered = [(slot, request) for slot, request in ended if not failed[slot]]
        chosen.failed.extend(request for slot, request in ended if failed[slot])
        if answered:
            wanted = [(slot, request.parameters) for slot, request in answered]
            with self._place.device.reading():
                found = self.search.read(launched.results, wanted)
            for (_, request), hypotheses in zip(answered, found, strict=True):
                if hypotheses:
                    chosen.finished.append((request, Output.of(request, hypotheses)))
                else:
                    chosen.failed.append(request)
        self.remove([request for _, request in ended])

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
        table.advance(self.search.are_done(num_slots))
        return logits
