"""The model runner for CUDA: paged caches, captured steps, an encoder that runs beside them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model_core.cached_encoder import CachedEncoder
from model_core.choose_search import search_for
from model_core.cuda.attention import PagedAttention, attention_on
from model_core.cuda.device import Device, Mark, device_for
from model_core.cuda.pages import PageArena, SlotPages, num_pages_for, page_bytes
from model_core.cuda.pool import STEPS_AHEAD, Place, Pool
from model_core.cuda.processors import CapturedChoice, Kind
from model_core.cuda.ranking import Ranking, ranking_on
from model_core.cuda.sources import write_sources
from model_core.decoder import Decoder
from model_core.device_loss import telling_device_loss
from model_core.encoder import Encoder
from model_core.errors import InvalidParameterError, SourceTooLongError
from model_core.generation import GenerationParameters
from model_core.request import Output, Request
from model_core.runner import EncodeReport, StepReport
from model_core.stopping import StopStrings

_MOST_BESIDE_A_PASS = 12
"""Steps that are under way at most when the host begins to launch a pass of the encoder.

Of each a copy of the search's results is kept until the host has seen its end.
"""
_TOKENS_BESIDE_A_STEP = 1500
"""Source tokens of a pass for one more of them: 16,000 take the host 20 ms on an H200, where a step
of 128 rows takes 1.5 ms."""
_FEWEST_BETWEEN = 32  # slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a runner has room for, from its beginning to its end.

    Attributes:
        num_pages: Pages of all requests.
        num_slots: Requests that are decoded together.
        max_source_len: Longest source.
        max_target_len: Longest target.
    """

    num_pages: int
    num_slots: int
    max_source_len: int
    max_target_len: int


@dataclass(frozen=True, slots=True)
class _Joining:
    """A request whose source is being encoded, or that waits for a slot."""

    request: Request
    pages: SlotPages
    encoded: Mark


class PooledRunner:
    """Runs one checkpoint step by step; see `ModelRunner`.

    Steps are launched before the host has seen the end of the last ones: a request ends in the
    report of a later step. It joins in the first step that begins after its source is encoded and
    for which it has a slot: more may be admitted than there are slots.

    Args:
        encoder: The checkpoint's encoder.
        decoder: Its lean decoder.
        capacity: What to make room for.
        encoder_cache_bytes: Bound of the encoder-output cache, 0 for none.
        stop_strings: The checkpoint's; None where no request has any.
        device: Where it works; by default as the decoder's weights say.
        attention: How it attends; by default the fastest way on that device.
        ranking: How it ranks; by default the fastest way on that device.

    Attributes:
        decoder: The lean decoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        capacity: Capacity,
        *,
        encoder_cache_bytes: int = 0,
        stop_strings: StopStrings | None = None,
        device: Device | None = None,
        attention: PagedAttention | None = None,
        ranking: Ranking | None = None,
    ) -> None:
        self._encoder = CachedEncoder(encoder, encoder_cache_bytes)
        self.decoder = decoder
        self._capacity = capacity
        self._stop_strings = stop_strings
        self._layout = decoder.cache_layout
        self._arena = PageArena(self._layout, capacity.num_pages)
        self._device = device or device_for(self._layout.device)
        self._place = Place(
            decoder,
            self._arena,
            attention or attention_on(self._layout.device),
            self._device,
            capacity.num_slots,
            capacity.max_source_len,
            capacity.max_target_len,
        )
        self._ranking = ranking or ranking_on(self._layout.device)
        self._lasting: list[Pool] = []
        self._passing: list[Pool] = []
        self._joining: list[_Joining] = []
        self._stepped = self._device.mark()
        self._num_steps = self._num_row_steps = 0
        """Steps that no report has told of yet, and the hypotheses in them."""

    @property
    def num_pages(self) -> int:
        """Pages of all requests."""
        return self._capacity.num_pages

    @property
    def num_free_pages(self) -> int:
        """Pages that no request holds."""
        return self._arena.num_free

    @property
    def cache_bytes(self) -> int:
        """Bytes of all pages: what running requests may reserve together."""
        return self._arena.num_bytes

    def cost_bytes(self, request: Request) -> int:
        """See `ModelRunner`: whole pages for its source and for its longest target.

        Raises:
            SourceTooLongError: There is no slot for so long a source.
            InvalidParameterError: There is none for so long a target.
        """
        most = self._capacity
        if request.source_len > most.max_source_len:
            raise SourceTooLongError(request.source_len, most.max_source_len)
        if request.parameters.max_length > most.max_target_len:
            expected = f"at most {most.max_target_len} target tokens"
            raise InvalidParameterError("max_length", request.parameters.max_length, expected)
        num_pages = sum(map(num_pages_for, _num_entries(request)))
        return num_pages * page_bytes(self._layout)

    @telling_device_loss
    @torch.inference_mode()
    def warm_up(self, kinds: Sequence[GenerationParameters]) -> None:
        """Capture the steps of every number of requests, for searches of these kinds.

        Requests that ask for more than one of them does run through steps that are not captured.
        """
        with self._device.decoding():
            for parameters in kinds:
                kind = Kind.of(parameters)
                if kind is None or any(pool.takes(parameters) for pool in self._lasting):
                    continue
                pool = self._new_pool(parameters, kind)
                pool.capture(buckets_up_to(self._capacity.num_slots))
                self._lasting.append(pool)
        self._device.synchronize()

    @telling_device_loss
    @torch.inference_mode()
    def admit(self, requests: Sequence[Request]) -> EncodeReport:
        """See `ModelRunner`. Those who run go on meanwhile."""
        if not requests:
            return EncodeReport()
        self._launch_ahead(sum(request.source_len for request in requests))
        with self._device.encoding():
            outputs, report = self._encoder([request.source_ids for request in requests])
            pages = [self._arena.allocate(*_num_entries(request)) for request in requests]
            # The last step may still write to pages that were freed after it was launched.
            self._device.follow(self._stepped)
            write_sources(self.decoder, self._arena, pages, outputs)
            encoded = self._device.mark()
        joining = zip(requests, pages, strict=True)
        self._joining += (_Joining(request, own, encoded) for request, own in joining)
        return report

    @telling_device_loss
    @torch.inference_mode()
    def step(self) -> StepReport:
        """See `ModelRunner`."""
        finished: list[tuple[Request, Output]] = []
        failed: list[Request] = []
        with self._device.decoding():
            self._join()
            running = [pool for pool in self.pools if pool.requests]
            self._launch(running)
            for pool in running:
                chosen = pool.collect()
                finished += chosen.finished
                failed += chosen.failed
        self._drop_empty_pools()
        num_steps, num_row_steps = self._num_steps, self._num_row_steps
        self._num_steps = self._num_row_steps = 0
        num_rows = math.ceil(num_row_steps / num_steps)
        return StepReport(tuple(finished), num_rows, tuple(failed), num_steps)

    @telling_device_loss
    @torch.inference_mode()
    def remove(self, requests: Sequence[Request]) -> None:
        """See `ModelRunner`."""
        gone = set(requests)
        for each in self._joining:
            if each.request in gone:
                self._arena.free(each.pages)
        self._joining = [each for each in self._joining if each.request not in gone]
        with self._device.decoding():
            for pool in self.pools:
                pool.remove([each for each in pool.requests if each in gone])
        self._drop_empty_pools()

    @telling_device_loss
    @torch.inference_mode()
    def reset(self) -> None:
        """See `ModelRunner`."""
        self._device.synchronize()
        with self._device.decoding():
            for pool in self.pools:
                pool.clear()
        self._passing = []
        self._joining = []
        self._num_steps = self._num_row_steps = 0
        self._arena.free_all()

    @property
    def pools(self) -> list[Pool]:
        """Slots by kind of search; those with captured steps first."""
        return [*self._lasting, *self._passing]

    def _launch_ahead(self, num_tokens: int) -> None:
        """Give the device something to do while the host launches a pass of the encoder.

        Args:
            num_tokens: Of the sources in it.
        """
        running = [pool for pool in self._lasting if pool.requests]
        wanted = min(STEPS_AHEAD + num_tokens // _TOKENS_BESIDE_A_STEP, _MOST_BESIDE_A_PASS)
        with self._device.decoding():
            # A step of each pool takes its time.
            while slow := [p for p in running if p.num_under_way * len(running) < wanted]:
                self._launch(slow)

    def _launch(self, pools: Sequence[Pool]) -> None:
        for pool in pools:
            pool.launch()
            self._num_row_steps += pool.num_rows
        self._num_steps += 1
        self._stepped = self._device.mark()

    def _join(self) -> None:
        """Give free slots to the requests whose sources are encoded.

        Where nobody runs the first ones get theirs at once: the next step waits for their pass.
        """
        num_running = sum(len(pool.requests) for pool in self.pools)
        is_idle, encoded = num_running == 0, None
        while self._joining and num_running < self._capacity.num_slots:
            each = self._joining[0]
            if each.encoded is not encoded:
                if not (is_idle and encoded is None) and not each.encoded.is_reached():
                    return
                self._device.follow(each.encoded)
                encoded = each.encoded
            self._pool_for(each.request).admit(each.request, each.pages)
            del self._joining[0]
            num_running += 1

    def _pool_for(self, request: Request) -> Pool:
        for pool in self.pools:
            if pool.takes(request.parameters):
                return pool
        pool = self._new_pool(request.parameters)
        self._passing.append(pool)
        return pool

    def _new_pool(self, parameters: GenerationParameters, kind: Kind | None = None) -> Pool:
        most, device = self._capacity, self._layout.device
        fixed = None
        if kind is not None:
            fixed = CapturedChoice(kind, most.num_slots, most.max_target_len, device, self._ranking)
        search = search_for(parameters, most.num_slots, device, self._stop_strings, fixed)
        return Pool(self._place, search, kind)

    def _drop_empty_pools(self) -> None:
        self._passing = [pool for pool in self._passing if pool.requests]


def buckets_up_to(num_slots: int) -> list[int]:
    """Numbers of slots for which a step is captured: powers of two, what is between, all slots.

    Between small ones is nothing: a step takes as long for either.
    """
    powers = [1 << exponent for exponent in range(num_slots.bit_length())]
    between = [3 * power // 2 for power in powers if power >= _FEWEST_BETWEEN]
    return sorted(each for each in {*powers, *between, num_slots} if each <= num_slots)


def _num_entries(request: Request) -> tuple[int, int]:
    """Entries of a request's source, and of its longest target."""
    parameters = request.parameters
    return request.source_len, parameters.max_length * parameters.num_hypotheses
