"""One request as a call of transformers' `generate()`: what the parameters alone do not say."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StopStringCriteria

from model_core.generation import GenerationParameters
from model_core.stopping import stops

NEVER_FINISHED = -9e8
"""Rows that never finished have scores below it.

Where a beam search ends with fewer finished hypotheses than asked for, transformers fills up with
such rows, at -1e9; we leave them out.
"""

_seeding = threading.Lock()  # the library draws from the process's one generator


def generate_arguments(
    parameters: GenerationParameters,
    *,
    num_sources: int = 1,
    device: torch.device,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> dict[str, Any]:
    """Keyword arguments of `generate()`, the source itself apart.

    Args:
        parameters: Of every source of the call.
        num_sources: How many there are.
        device: Where the model is.
        tokenizer: The checkpoint's; needed where the parameters have stop strings.
    """
    arguments = parameters.generate_kwargs()
    if parameters.target_prefix_ids:
        prompt = torch.tensor([parameters.prompt_ids], device=device)
        arguments["decoder_input_ids"] = prompt.repeat(num_sources, 1)
    if parameters.stop_strings:
        arguments["tokenizer"] = tokenizer
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
    row: Sequence[int], parameters: GenerationParameters, stop: StopStringCriteria | None = None
) -> tuple[int, ...]:
    """The target tokens of one row of `generate()`: behind what ended it, there is padding.

    Args:
        row: Tokens after the decoder start token.
        parameters: Of the request.
        stop: Its stop strings, where it has any.
    """
    first = len(parameters.target_prefix_ids)
    for index in range(first, len(row)):
        ended = row[index] in parameters.eos_token_ids
        if not ended and stop is not None:
            target = torch.tensor([[parameters.decoder_start_token_id, *row[: index + 1]]])
            ended = bool(stops(stop, target))
        if ended:
            return tuple(row[: index + 1])
    return tuple(row)
