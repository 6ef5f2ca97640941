"""What an engine's process and its workers say to each other.

They are parent and child on a socket that nobody else has: messages are pickled.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from model_core.checkpoint import Checkpoint, CheckpointOptions
from model_core.generation import GenerationParameters
from model_core.request import Output
from model_core.slot_cost import SlotCost

DUMP_STACKS = signal.SIGUSR1
"""Tells a worker that has loaded to write where its threads are to standard error."""

Method = Literal["admit", "step", "remove", "reset"]
RequestId = str
Admission = tuple[RequestId, tuple[int, ...], GenerationParameters]
"""A request as a worker needs it: id, source tokens, parameters."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to load.

    Attributes:
        checkpoints: By name: where it is, and how to load it.
        encoder_cache_bytes: Bound of each encoder-output cache, 0 for none.
        num_threads: Threads of torch while it loads.
    """

    checkpoints: Mapping[str, tuple[str, CheckpointOptions]]
    encoder_cache_bytes: int
    num_threads: int


@dataclass(frozen=True, slots=True)
class Description:
    """A checkpoint that a worker keeps, as everybody else needs it.

    Attributes:
        checkpoint: Without its model.
        family: Of its decoder.
        slot_cost: What its slots cost.
    """

    checkpoint: Checkpoint
    family: str
    slot_cost: SlotCost


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a model runner.

    Attributes:
        model: Name of its checkpoint.
        method: Of `ModelRunner`.
        argument: Admissions for `admit`, request ids for `remove`, else nothing.
        num_threads: Threads of torch that it may use.
    """

    model: str
    method: Method
    argument: Any
    num_threads: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """A `StepReport` whose requests are named by their ids; see there."""

    finished: tuple[tuple[RequestId, Output], ...]
    failed: tuple[RequestId, ...]
    num_rows: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class Raised:
    """An error in place of an answer."""

    error: Exception
