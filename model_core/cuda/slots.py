"""Where each slot of a pool has its pages, how far it is, and who wrote what it attends to."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_core.cuda.pages import SlotPages
from model_core.slot_moves import Moves, move_rows
from model_core.transfer import to_device

_LENGTH, _SOURCE_LEN, _PAGES = 0, 1, 2


class SlotTable:
    """One row of numbers per slot, at a fixed address; a slot in use is one of the first.

    A slot moves by moving its row: its pages stay. `ancestry[slot, b, t]` is the beam row that
    wrote position `t` of the hypothesis which now is row `b`; what lies beyond a slot's length
    is never read.

    Args:
        num_slots: Most requests.
        num_beams: Hypotheses per slot.
        max_target_len: Longest target.
        max_source_pages: Most pages of a source.
        max_target_pages: Most pages of a target.
        device: Where the caches are.

    Attributes:
        lengths: [num_slots], int32: tokens of each target, 0 where the slot is empty.
        source_lens: [num_slots], int32, 0 where the slot is empty: nothing is attended to there.
        source_pages: [num_slots, max_source_pages], int32.
        target_pages: [num_slots, max_target_pages], int32.
        ancestry: [num_slots, num_beams, max_target_len], int16.
    """

    def __init__(
        self,
        num_slots: int,
        num_beams: int,
        *,
        max_target_len: int,
        max_source_pages: int,
        max_target_pages: int,
        device: torch.device,
    ) -> None:
        width = _PAGES + max_source_pages + max_target_pages
        self._rows = torch.zeros((num_slots, width), dtype=torch.int32, device=device)
        self.lengths = self._rows[:, _LENGTH]
        self.source_lens = self._rows[:, _SOURCE_LEN]
        self.source_pages = self._rows[:, _PAGES : _PAGES + max_source_pages]
        self.target_pages = self._rows[:, _PAGES + max_source_pages :]
        shape = (num_slots, num_beams, max_target_len)
        self.ancestry = torch.zeros(shape, dtype=torch.int16, device=device)
        self._beams = torch.arange(num_beams, dtype=torch.int16, device=device)

    def put(self, first: int, length: int, newcomers: Sequence[tuple[int, SlotPages]]) -> None:
        """Let slots begin with a target of `length` tokens.

        Args:
            first: The first of the slots, which follow one another.
            length: Of each target.
            newcomers: Source length and pages of each.
        """
        most = self.source_pages.shape[1], self.target_pages.shape[1]
        rows = [
            [
                length,
                source_len,
                *pages.source,
                *[0] * (most[0] - len(pages.source)),
                *pages.target,
                *[0] * (most[1] - len(pages.target)),
            ]
            for source_len, pages in newcomers
        ]
        placed = to_device(torch.tensor(rows, dtype=torch.int32), self._rows.device)
        self._rows[first : first + len(rows)] = placed

    def move(self, moves: Moves) -> None:
        """Copy slots over others."""
        move_rows(moves, self._rows, self.ancestry)

    def clear(self, first: int, num_slots: int) -> None:
        """Empty the slots from one on."""
        self._rows[first:num_slots, :_PAGES] = 0

    def clear_all(self) -> None:
        """Empty every slot."""
        self._rows[:, :_PAGES] = 0

    def note_writers(self, num_slots: int) -> None:
        """Every row is the writer of its last position: a part of a step."""
        # An empty slot writes to position 0, which its next request will write again.
        last = (self.lengths[:num_slots] - 1).clamp(min=0).long()
        index = last[:, None, None].expand(-1, len(self._beams), 1)
        writers = self._beams[None, :, None].expand(num_slots, -1, 1)
        self.ancestry[:num_slots].scatter_(2, index, writers)

    def choose_parents(self, parents: Tensor) -> None:
        """Let row `b` of slot `s` continue row `parents[s, b]`; [num_slots, num_beams]."""
        lineage = self.ancestry[: parents.shape[0]]
        index = parents[:, :, None].expand(-1, -1, lineage.shape[2])
        lineage.copy_(lineage.gather(1, index))

    def advance(self, are_done: Tensor) -> None:
        """Every target that goes on grows by a token: a part of a step.

        Args:
            are_done: [num_slots], those that had ended before: they stay as they are, and within
                their pages, however many steps follow.
        """
        lengths = self.lengths[: len(are_done)]
        lengths += (lengths > 0) & ~are_done
