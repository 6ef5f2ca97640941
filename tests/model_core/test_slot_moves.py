"""Slots that leave, and those that move into their places."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from model_core.slot_moves import move_rows, moves_into_holes


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_who_stays_is_in_the_first_slots(drawn: tuple[int, set[int]]) -> None:
    num_slots, leaving = drawn
    moves = moves_into_holes(num_slots, leaving)
    tokens, scores = torch.arange(2 * num_slots).view(num_slots, 2), torch.arange(num_slots)
    move_rows(moves, tokens, scores)
    staying = set(range(num_slots)) - leaving
    assert set(scores[: len(staying)].tolist()) == staying
    assert torch.equal(tokens[:, 0], 2 * scores)
    assert len(moves) <= len(leaving)  # nobody moves without need
