"""One request as a call of transformers' `generate()`: what the parameters alone do not say."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from model_core.generation import GenerationParameters
from model_core.stopping import StopStrings

NEVER_FINISHED = -9e8
"""Rows that never finished have scores below it.

Where a beam search ends with fewer finished hypotheses than asked for, transformers fills up with
such rows, at -1e9; we leave them out.
"""

_seeding = threading.Lock()  # the library draws from the process's one generator


def generate_arguments(
    parameters: GenerationParameters, *, num_sources: int = 1, device: torch.device
) -> dict[str, Any]:
    """Keyword arguments of `generate()`, the source itself and stop strings apart.

    Args:
        parameters: Of every source of the call.
        num_sources: How many there are.
        device: Where the model is.
    """
    arguments = parameters.generate_kwargs() | {"stop_strings": None}
    if parameters.target_prefix_ids:
        prompt = torch.tensor([parameters.prompt_ids], device=device)
        arguments["decoder_input_ids"] = prompt.repeat(num_sources, 1)
    return arguments


@contextmanager
def seeded(parameters: GenerationParameters, device: torch.device) -> Iterator[None]:
    """While tokens are drawn: the library's generator with the request's seed, for us alone."""
    if not parameters.do_sample:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with _seeding, torch.random.fork_rng(devices=devices):
        torch.manual_seed(parameters.seed)
        yield


def cut_target(
    row: Sequence[int], parameters: GenerationParameters, stop_strings: StopStrings | None = None
) -> tuple[int, ...]:
    """The target tokens of one row of `generate()`: behind what ended it, there is padding.

    Args:
        row: Tokens after the decoder start token.
        parameters: Of the request.
        stop_strings: The checkpoint's; needed where the request has any.
    """
    strings = parameters.stop_strings
    target = [parameters.decoder_start_token_id, *row]
    for length in range(parameters.prompt_len + 1, len(target) + 1):
        ended = target[length - 1] in parameters.eos_token_ids
        if not ended and strings and stop_strings is not None:
            ended = stop_strings.ends(strings, target[:length])
        if ended:
            return tuple(target[1:length])
    return tuple(row)
