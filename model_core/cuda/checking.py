"""The steps of a pool, one after the other, as the self-check wants them."""

from torch import Tensor

from model_core.cuda.attention import attention_on
from model_core.cuda.device import HostDevice
from model_core.cuda.pages import PageArena, num_pages_for
from model_core.cuda.pool import Place, Pool
from model_core.cuda.sources import write_sources
from model_core.decoder import Decoder
from model_core.request import Request
from model_core.search import Search
from model_core.self_check import LONGEST_SOURCE, NUM_SOURCES, NUM_STEPS


class PoolSteps:
    """See `CheckedSteps`: over pages, through the attention that serves, but not captured."""

    def __init__(self, decoder: Decoder, search: Search) -> None:
        device = decoder.cache_layout.device
        target_len = NUM_STEPS + 1
        num_pages = num_pages_for(LONGEST_SOURCE) + num_pages_for(target_len * search.num_beams)
        self._decoder = decoder
        self._search = search
        self._arena = PageArena(decoder.cache_layout, NUM_SOURCES * num_pages)
        place = Place(
            decoder,
            self._arena,
            attention_on(device),
            HostDevice(),  # one stream does for a check
            NUM_SOURCES,
            LONGEST_SOURCE,
            target_len,
        )
        self._pool = Pool(place, search)

    def admit(self, request: Request, encoder_outputs: Tensor) -> None:
        """See `CheckedSteps`."""
        num_targets = request.parameters.max_length * self._search.num_beams
        pages = self._arena.allocate(request.source_len, num_targets)
        write_sources(self._decoder, self._arena, [pages], [encoder_outputs])
        self._pool.admit(request, pages)
        self._pool.seat()

    def logits(self) -> Tensor:
        """See `CheckedSteps`."""
        return self._pool.forward(len(self._pool.requests))

    def choose(self, logits: Tensor) -> None:
        """See `CheckedSteps`."""
        self._pool.choose(logits)
