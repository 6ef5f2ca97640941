"""Slots in use are the first ones: where some leave, the last ones move into the holes."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from model_core.transfer import to_device

Moves = Sequence[tuple[int, int]]
"""Each hole, and the slot that moves there; no slot is both."""


def moves_into_holes(num_slots: int, leaving: Collection[int]) -> Moves:
    """Which slots move where, when some of the first `num_slots` leave."""
    gone = set(leaving)
    num_kept = num_slots - len(gone)
    holes = [slot for slot in range(num_kept) if slot in gone]
    movers = [slot for slot in range(num_kept, num_slots) if slot not in gone]
    return list(zip(holes, movers, strict=True))


def move_rows(moves: Moves, *buffers: Tensor) -> None:
    """Copy rows of buffers, whose first dimension is the slot, over others."""
    if len(moves) == 1:
        ((hole, last),) = moves
        for buffer in buffers:
            buffer[hole] = buffer[last]
    elif moves and buffers:
        holes, movers = to_device(torch.tensor(moves), buffers[0].device).unbind(1)
        for buffer in buffers:
            buffer[holes] = buffer[movers]
