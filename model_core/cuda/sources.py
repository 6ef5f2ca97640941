"""Encoded sources into their pages."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_core.cuda.pages import PageArena, SlotPages, places_of
from model_core.decoder import Decoder
from model_core.transfer import to_device


def write_sources(
    decoder: Decoder, arena: PageArena, pages: Sequence[SlotPages], outputs: Sequence[Tensor]
) -> None:
    """Project all sources at once and store their cross-attention keys and values.

    Args:
        decoder: What projects them.
        arena: Whose pages.
        pages: Of each source.
        outputs: Encoder outputs of each source, [source_len, hidden].
    """
    places = places_of([each.source for each in pages], [len(source) for source in outputs])
    places = to_device(places, arena.keys.device)
    for layer, (keys, values) in enumerate(decoder.project_sources(torch.cat(list(outputs)))):
        arena.write(layer, places, keys, values)
