"""The lean model runner: continuous batching through `model_core.decoder`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_core.cached_encoder import CachedEncoder
from model_core.choose_search import search_for
from model_core.decoder import Decoder
from model_core.encoder import Encoder
from model_core.group import Group
from model_core.key_values import KeyValuesPool
from model_core.request import Output, Request
from model_core.runner import EncodeReport, StepReport
from model_core.search import Search
from model_core.slot_cost import Capacity, SlotCost, power_of_two
from model_core.stopping import StopStrings

MAX_SLOTS_PER_GROUP = 32


class LeanRunner:
    """Runs one checkpoint step by step; see `ModelRunner`.

    Args:
        encoder: The checkpoint's encoder.
        decoder: Its lean decoder.
        encoder_cache_bytes: Bound of the encoder-output cache, 0 for none.
        stop_strings: The checkpoint's; None where no request has any.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        *,
        encoder_cache_bytes: int = 0,
        stop_strings: StopStrings | None = None,
    ) -> None:
        self._encoder = CachedEncoder(encoder, encoder_cache_bytes)
        self._decoder = decoder
        self._stop_strings = stop_strings
        self._layout = decoder.cache_layout
        self._pool = KeyValuesPool(self._layout)
        self.slot_cost = SlotCost(self._layout, decoder.vocab_size)
        """What a slot costs."""
        self._groups: list[Group] = []

    def cost_bytes(self, request: Request) -> int:
        """See `ModelRunner`."""
        return self.slot_cost.of(request)

    @torch.inference_mode()
    def admit(self, requests: Sequence[Request]) -> EncodeReport:
        """See `ModelRunner`."""
        outputs, report = self._encoder([request.source_ids for request in requests])
        slots = []
        for index, request in enumerate(requests):
            group = self._group_for(request, requests[index:])
            slots.append((group, group.admit(request)))
        self._write_sources(slots, outputs)
        return report

    @torch.inference_mode()
    def step(self) -> StepReport:
        """See `ModelRunner`."""
        groups = self._groups
        if not groups:
            return StepReport((), 0)
        token_ids, positions = zip(*(group.begin_step() for group in groups), strict=True)
        num_rows = [group.num_rows for group in groups]
        logits = self._decoder.step(torch.cat(token_ids), torch.cat(positions), groups)
        finished: list[tuple[Request, Output]] = []
        failed: list[Request] = []
        for group, rows in zip(groups, torch.split(logits, num_rows), strict=True):
            chosen = group.choose(rows)
            finished += chosen.finished
            failed += chosen.failed
        self._drop_empty_groups()
        return StepReport(tuple(finished), sum(num_rows), tuple(failed))

    @torch.inference_mode()
    def remove(self, requests: Sequence[Request]) -> None:
        """See `ModelRunner`."""
        for request in requests:
            group = next(group for group in self._groups if request in group.requests)
            group.give_up(request)
        self._drop_empty_groups()

    def reset(self) -> None:
        """See `ModelRunner`. Nothing is used again: a step that raised may have left anything."""
        self._pool = KeyValuesPool(self._layout)
        self._groups = []

    def _write_sources(self, slots: Sequence[tuple[Group, int]], outputs: list[Tensor]) -> None:
        """Project the sources of all slots at once, and store each where it belongs."""
        if not slots:
            return
        source_lens = [source.shape[0] for source in outputs]
        for layer, projected in enumerate(self._decoder.project_sources(torch.cat(outputs))):
            parts = (torch.split(part, source_lens) for part in projected)
            for (group, slot), keys, values in zip(slots, *parts, strict=True):
                group.write_source(slot, layer, keys, values)

    def _group_for(self, request: Request, joining: Sequence[Request]) -> Group:
        """A group with a free slot for this kind of search, width and lengths.

        A new one gets slots for those of its kind that join now; powers of two, so that its memory
        serves other groups after it.
        """
        for group in self._groups:
            if not group.is_full and _is_of_kind(request, group.search, group.capacity):
                return group
        search = search_for(
            request.parameters, MAX_SLOTS_PER_GROUP, self._layout.device, self._stop_strings
        )
        capacity = _capacity_of(request)
        group = Group(
            self._pool,
            search,
            max_slots=MAX_SLOTS_PER_GROUP,
            num_slots=power_of_two(sum(_is_of_kind(each, search, capacity) for each in joining)),
            capacity=capacity,
            position_biases=self._decoder.position_biases,
        )
        self._groups.append(group)
        return group

    def _drop_empty_groups(self) -> None:
        for group in self._groups:
            if not group.requests:
                group.close()
        self._groups = [group for group in self._groups if group.requests]


def _capacity_of(request: Request) -> Capacity:
    return Capacity.of(request.source_len, request.parameters.max_length)


def _is_of_kind(request: Request, search: Search, capacity: Capacity) -> bool:
    return _capacity_of(request) == capacity and search.fits(request.parameters)
