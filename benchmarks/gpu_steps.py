"""Where the time of a decoder step goes, and how near it is to the limit of the bytes it moves."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import torch

from model_core.cuda.device import Device, device_for
from model_core.cuda.pool import Pool
from model_core.cuda.runner import PooledRunner
from model_core.decoder import CrossAttention, Decoder, Linear
from model_core.request import Request

_NUM_ROUNDS = 10
_COPIED_BYTES = 1 << 30


@dataclass(frozen=True)
class StepTimes:
    """One step of a full pool, in milliseconds; medians.

    Attributes:
        whole: As it runs: decoder, choice of tokens, bookkeeping.
        forward: The decoder alone.
        attention: Its attention alone, self- and cross-, with the writing of keys.
        limit: What the bytes take that a step must read: weights, keys and values.
        rows: Hypotheses.
    """

    whole: float
    forward: float
    attention: float
    limit: float
    rows: int

    def as_dict(self) -> dict[str, float]:
        """With what follows from them."""
        return {
            "rows": self.rows,
            "whole_ms": self.whole,
            "attention_ms": self.attention,
            "products_and_norms_ms": self.forward - self.attention,
            "choice_ms": self.whole - self.forward,
            "bytes_limit_ms": self.limit,
            "fraction_of_limit": self.limit / self.whole,
        }


def step_times(runner: PooledRunner, requests: Sequence[Request], num_steps: int) -> StepTimes:
    """Times of a step in which every request is `num_steps` tokens on its way.

    Args:
        runner: Empty and warm; what it decodes is given up.
        requests: All alike in their search, with targets of some dozens of tokens more.
        num_steps: Where in the targets to look.
    """
    runner.admit(requests)
    for _ in range(num_steps):
        runner.step()
    decoder = runner.decoder
    pool = max(runner.pools, key=lambda pool: len(pool.requests))
    num_slots, num_rows = len(pool.requests), pool.num_rows
    torch_device = decoder.cache_layout.device
    device = device_for(torch_device)
    with torch.inference_mode(), device.decoding():
        before = step_bytes(decoder, pool)
        attention = median_ms(device, partial(_attend, pool, decoder, num_slots))
        forward = median_ms(device, partial(pool.forward, num_slots))
        whole = median_ms(device, partial(pool.step, num_slots))
        num_bytes = (before + step_bytes(decoder, pool)) / 2  # targets have grown
        limit = num_bytes / bandwidth(torch_device, device) * 1e3
    runner.reset()
    return StepTimes(whole, forward, attention, limit, num_rows)


def step_bytes(decoder: Decoder, pool: Pool) -> int:
    """Bytes that a step reads at least once: weights, and the keys and values of all slots."""
    weights = sum(linear.weight.nbytes for linear in _step_linears(decoder))
    return weights + pool.num_entries * decoder.cache_layout.bytes_per_token


def bandwidth(torch_device: torch.device, device: Device) -> float:
    """Bytes per second that the device reads and writes in a plain copy."""
    num_bytes = _COPIED_BYTES if torch_device.type == "cuda" else _COPIED_BYTES >> 6
    source = torch.ones(num_bytes, dtype=torch.uint8, device=torch_device)
    target = torch.empty_like(source)
    read_and_write = 2
    return read_and_write * num_bytes / (median_ms(device, lambda: target.copy_(source)) / 1e3)


def median_ms(device: Device, part: Callable[[], torch.Tensor]) -> float:
    """Milliseconds of a part, captured, launched alone."""
    launch = device.capture(part)
    times = []
    for _ in range(_NUM_ROUNDS):
        device.synchronize()
        started = time.perf_counter()
        launch()
        device.synchronize()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def _attend(pool: Pool, decoder: Decoder, num_slots: int) -> torch.Tensor:
    context = pool.context(num_slots)
    layout = decoder.cache_layout
    shape = (context.num_rows, layout.num_heads, layout.head_dim)
    rows = torch.ones(shape, dtype=layout.dtype, device=layout.device)
    for layer in range(layout.num_layers):
        rows = context.self_attention(layer, rows, rows, rows).view(shape)
        rows = context.cross_attention(layer, rows).view(shape)
    return rows


def _step_linears(part: Any) -> Iterator[Linear]:
    """Linear layers that run in every step: not the projections of the sources."""
    if isinstance(part, Linear):
        yield part
    elif isinstance(part, CrossAttention):
        yield from (part.query, part.output)
    elif isinstance(part, tuple):
        for each in part:
            yield from _step_linears(each)
    elif is_dataclass(part):
        for each in fields(part):
            yield from _step_linears(getattr(part, each.name))
