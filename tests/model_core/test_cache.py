"""The self-attention cache against plain attention over each hypothesis' own lineage."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_core.attention import attend
from model_core.cache import (
    BLOCK_LEN,
    CacheLayout,
    CrossAttentionCache,
    PositionBias,
    SelfAttentionCache,
)

LAYOUT = CacheLayout(
    num_layers=2, num_heads=2, head_dim=4, dtype=torch.float32, device=torch.device("cpu")
)


class Lineages:
    """What each hypothesis has seen, copied at every choice of parents as libraries do."""

    def __init__(self, num_slots: int, num_beams: int) -> None:
        self.keys: list[list[list[Tensor]]] = [
            [[] for _ in range(num_beams)] for _ in range(num_slots)
        ]

    def append(self, keys: Tensor) -> None:
        for slot, beams in enumerate(self.keys):
            for beam, seen in enumerate(beams):
                seen.append(keys[slot, beam])

    def choose_parents(self, parents: Tensor) -> None:
        for slot, beams in enumerate(self.keys):
            self.keys[slot] = [list(beams[parent]) for parent in parents[slot].tolist()]


def plain_attention(query: Tensor, seen: list[Tensor]) -> Tensor:
    """Keys double as values; query [num_heads, head_dim]."""
    keys = torch.stack(seen, dim=1)
    weights = torch.softmax((query[:, None] * keys).sum(-1), dim=-1)
    return (weights[..., None] * keys).sum(1).flatten()


@settings(max_examples=25, deadline=None)
@given(
    num_beams=st.integers(1, 4),
    starts=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    num_steps=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_beams_attend_to_exactly_what_their_lineage_wrote(
    num_beams: int, starts: list[int], num_steps: int, seed: int
) -> None:
    torch.manual_seed(seed)
    starts = sorted(starts)  # slots join in order, at different steps
    cache = SelfAttentionCache(LAYOUT, len(starts), num_beams)
    lineages = Lineages(len(starts), num_beams)
    positions = torch.zeros(len(starts), dtype=torch.long)
    for step in range(num_steps):
        num_slots = sum(start <= step for start in starts)
        if not num_slots:
            continue
        shape = (num_slots, num_beams, LAYOUT.num_heads, LAYOUT.head_dim)
        keys, query = torch.randn(shape), torch.randn(shape)
        view = cache.step(positions[:num_slots], ())
        view.write(1, keys, keys)
        context = attend(query, view.blocks, view.biases(1), 1).view(num_slots, num_beams, -1)
        current = Lineages(0, 0)
        current.keys = lineages.keys[:num_slots]
        current.append(keys)
        for slot in range(num_slots):
            for beam in range(num_beams):
                expected = plain_attention(query[slot, beam], lineages.keys[slot][beam])
                torch.testing.assert_close(context[slot, beam], expected, rtol=1e-5, atol=1e-5)
        parents = torch.randint(num_beams, (num_slots, num_beams))
        cache.choose_parents(parents)
        current.choose_parents(parents)
        lineages.keys[:num_slots] = current.keys
        positions[:num_slots] += 1


def test_choosing_parents_moves_no_key() -> None:
    cache = SelfAttentionCache(LAYOUT, 1, 3)
    view = cache.step(torch.tensor([0]), ())
    keys = torch.randn(1, 3, LAYOUT.num_heads, LAYOUT.head_dim)
    view.write(0, keys, keys)
    before = view.blocks[0].keys.clone()
    cache.choose_parents(torch.tensor([[2, 2, 0]]))
    assert torch.equal(cache.step(torch.tensor([1]), ()).blocks[0].keys[..., :3, :], before)


def test_growing_leaves_earlier_blocks_where_they_are() -> None:
    cache = SelfAttentionCache(LAYOUT, 1, 1)
    first = cache.step(torch.tensor([0]), ()).blocks[0].keys.data_ptr()
    view = cache.step(torch.tensor([BLOCK_LEN]), ())
    assert len(view.blocks) == 2
    assert view.blocks[0].keys.data_ptr() == first


def test_a_slot_is_clear_of_what_its_last_request_wrote() -> None:
    cache = SelfAttentionCache(LAYOUT, 1, 1)
    for position in range(5):
        cache.step(torch.tensor([position]), ())
    cache.clear(0)
    view = cache.step(torch.tensor([0]), ())
    cache.choose_parents(torch.tensor([[0]]))
    later = cache.step(torch.tensor([1]), ())
    assert torch.isfinite(view.biases(0)[0]).sum() == 1
    assert torch.isfinite(later.biases(0)[0]).sum() == 2


def test_each_layer_may_have_a_position_bias_of_its_own() -> None:
    cache = SelfAttentionCache(LAYOUT, 1, 1)
    tables = [torch.randn(LAYOUT.num_heads, 3) for _ in range(LAYOUT.num_layers)]
    cache.step(torch.tensor([0]), ())
    view = cache.step(torch.tensor([1]), [PositionBias(table) for table in tables])
    for layer, table in enumerate(tables):
        assert torch.equal(view.biases(layer)[0][0, :, 0], table[:, :2].flip(-1))


def test_sources_of_different_length_are_masked_and_move_whole() -> None:
    cache = CrossAttentionCache(LAYOUT, 2, 8)
    short = torch.randn(LAYOUT.num_layers, LAYOUT.num_heads, 3, LAYOUT.head_dim)
    long = torch.randn(LAYOUT.num_layers, LAYOUT.num_heads, 6, LAYOUT.head_dim)
    cache.write(0, short, short)
    cache.write(1, long, long)
    entries, bias = cache.view(2)
    assert entries.keys.shape[3] == 6
    assert torch.isfinite(bias).sum(-1).flatten().tolist() == [3, 6]
    cache.move(1, 0)
    entries, bias = cache.view(1)
    assert torch.equal(entries.values[:, 0], long)
    assert torch.isfinite(bias).all()
