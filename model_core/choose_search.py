"""Which search a request gets."""

import torch

from model_core.beam_search import BeamSearch
from model_core.generation import GenerationParameters
from model_core.sampler import Sampler
from model_core.search import FixedChoice, Search
from model_core.stopping import StopStrings


def search_for(
    parameters: GenerationParameters,
    capacity: int,
    device: torch.device,
    stop_strings: StopStrings | None = None,
    fixed: FixedChoice | None = None,
) -> Search:
    """A new search that fits a request; for the arguments see `Search`."""
    if parameters.num_beams == 1:
        return Sampler(capacity, parameters.num_return_sequences, device, stop_strings, fixed)
    return BeamSearch(
        capacity, parameters.num_beams, parameters.num_candidates, device, stop_strings, fixed
    )
