"""From a checkpoint's shape and a memory to the limits of a server."""

import math
from dataclasses import dataclass, replace

from app.settings import Settings
from model_core.errors import TandemError
from model_core.shape import Shape
from model_core.slot_cost import SlotCost

_GiB = 1024**3

_RUNTIME_BYTES = {"cpu": _GiB, "cuda": 2 * _GiB}
"""A process that decodes, without a checkpoint, and the work space of its kernels."""
_SERVER_BYTES = _GiB // 2
"""The server's own process where workers decode: it has tokenizers, and no weights."""
_HEADROOM = 0.15
"""Part of the memory that is left alone: encoder batches, texts, the allocator's own losses."""
_CACHES_PER_RESERVED = 2
"""Slots that are free for a moment make the caches larger than what is reserved of them."""
_MAX_SLOTS = {"cpu": 128, "cuda": 256}
"""More at once makes each answer later and hardly any more of them."""
_WAITING_PER_SLOT = 8
_USUAL_SOURCE_LEN = 256
_USUAL_MAX_LENGTH = 256
_UNBOUNDED = 2**31


class PlanError(TandemError):
    """There is no plan: too little memory, or nobody says how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A request as it is planned for.

    Attributes:
        source_len: Source tokens.
        max_length: Target tokens, the decoder start token included.
        num_beams: Hypotheses.
    """

    source_len: int
    max_length: int
    num_beams: int

    @classmethod
    def usual(cls, shape: Shape, settings: Settings) -> "Workload":
        """What the checkpoint's own defaults ask for."""
        largest, values = cls.largest(shape, settings), shape.defaults.values
        length = values.max_length or _USUAL_MAX_LENGTH
        if values.max_new_tokens is not None:
            length = values.max_new_tokens + 1
        return cls(
            source_len=min(_USUAL_SOURCE_LEN, largest.source_len),
            max_length=min(length, largest.max_length),
            num_beams=min(values.num_beams or 1, largest.num_beams),
        )

    @classmethod
    def largest(cls, shape: Shape, settings: Settings) -> "Workload":
        """The largest request that the checkpoint and the settings allow."""
        return cls(
            source_len=min(settings.max_source_tokens, shape.max_source_len or _UNBOUNDED),
            max_length=min(settings.max_target_tokens, shape.max_target_len or _UNBOUNDED),
            num_beams=settings.max_num_beams,
        )

    def given(self, **values: int | None) -> "Workload":
        """The same with what is not None in place of its own."""
        return replace(self, **{name: each for name, each in values.items() if each is not None})

    def slot_bytes(self, cost: SlotCost) -> int:
        """What admission reserves for it."""
        return cost.bytes(self.source_len, self.max_length, self.num_beams)

    def __str__(self) -> str:
        return (
            f"{self.source_len} source tokens, {self.max_length} target tokens, "
            f"{self.num_beams} hypotheses"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What fits, and what to set.

    Attributes:
        num_workers: Processes that decode beside the server's own; 0 where that one does.
        fixed_bytes: All processes, their weights with copies, their encoder-output caches.
        cache_bytes: For the attention caches of each process that decodes.
        num_slots: Requests of the usual kind that fit at once into each of these.
        limits: Settings by field.
    """

    num_workers: int
    fixed_bytes: int
    cache_bytes: int
    num_slots: int
    limits: dict[str, int]


def make_plan(
    shape: Shape,
    workload: Workload,
    memory_bytes: int,
    settings: Settings,
    *,
    num_workers: int = 0,
) -> Plan:
    """The limits for one checkpoint that has the memory for itself.

    Args:
        shape: Of the checkpoint.
        workload: A usual request.
        memory_bytes: Of all processes together.
        settings: The operator's.
        num_workers: See `Plan`.

    Raises:
        PlanError: Not even one request fits.
    """
    cost = slot_cost_of(shape)
    slot_bytes = workload.slot_bytes(cost)
    num_decoding = max(1, num_workers)
    fixed_bytes = num_decoding * _decoding_bytes(shape, settings)
    if num_workers:
        fixed_bytes += _SERVER_BYTES
    num_copies = _CACHES_PER_RESERVED * num_decoding
    cache_bytes = (math.floor(memory_bytes * (1 - _HEADROOM)) - fixed_bytes) // num_copies
    num_slots = max(0, cache_bytes) // slot_bytes
    if num_slots == 0:
        needed = (fixed_bytes + num_copies * slot_bytes) / (1 - _HEADROOM)
        each = f" in each of {num_workers} workers" if num_workers > 1 else ""
        raise PlanError(
            f"{shape.name}: memory is {size(memory_bytes)}: expected at least "
            f"{size(math.ceil(needed))} for one request of {workload}{each}"
        )
    running = min(num_slots, _MAX_SLOTS[shape.device])
    waiting = _WAITING_PER_SLOT * running * num_decoding
    largest_bytes = Workload.largest(shape, settings).slot_bytes(cost)
    limits = {
        "max_running_requests": running,
        "max_waiting_requests": waiting,
        "max_waiting_tokens": waiting * workload.source_len,
    }
    cache_bytes = min(cache_bytes, running * largest_bytes)
    if shape.device == "cpu":  # a GPU's memory is shared out when the server starts
        limits |= {"max_cache_bytes": cache_bytes, "workers": num_workers}
    return Plan(
        num_workers=num_workers,
        fixed_bytes=fixed_bytes,
        cache_bytes=cache_bytes,
        num_slots=num_slots,
        limits=limits,
    )


def _decoding_bytes(shape: Shape, settings: Settings) -> int:
    """What each process that decodes takes before its first request."""
    return (
        _RUNTIME_BYTES[shape.device]
        + shape.weight_bytes
        + shape.copied_bytes
        + settings.encoder_cache_bytes
    )


def slot_cost_of(shape: Shape) -> SlotCost:
    """What its slots cost.

    Raises:
        PlanError: It has none.
    """
    if shape.slot_cost is None:
        raise PlanError(
            f"{shape.name}: {shape.architecture} goes through generate(), in micro-batches that "
            "reserve nothing: there are no slots to plan"
        )
    return shape.slot_cost


def size(num_bytes: int) -> str:
    """Bytes for people, in powers of 1024."""
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
