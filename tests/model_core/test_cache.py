"""The self-attention cache against plain attention over each hypothesis' own lineage."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model_core.attention import attend
from model_core.cache import (
    STEPS_OF_GROWTH,
    CrossAttentionCache,
    PositionBias,
    SelfAttentionCache,
    SelfAttentionStep,
)
from model_core.key_values import CacheLayout, KeyValuesPool

LAYOUT = CacheLayout(
    num_layers=2, num_heads=2, head_dim=4, dtype=torch.float32, device=torch.device("cpu")
)


def self_cache(num_slots: int, num_beams: int) -> SelfAttentionCache:
    return SelfAttentionCache(KeyValuesPool(LAYOUT), num_slots, num_beams)


def context_of(query: Tensor, view: SelfAttentionStep) -> Tensor:
    return attend(query, view.entries, view.biases, 1).view(*query.shape[:2], -1)


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


def plain_attention(query: Tensor, seen: list[Tensor], by_distance: Tensor) -> Tensor:
    """Keys double as values; query [num_heads, head_dim], bias [num_heads, num_distances]."""
    keys = torch.stack(seen, dim=1)
    distances = torch.arange(len(seen)).flip(0).clamp(max=by_distance.shape[1] - 1)
    logits = (query[:, None] * keys).sum(-1) + by_distance[:, distances]
    weights = torch.softmax(logits, dim=-1)
    return (weights[..., None] * keys).sum(1).flatten()


class JoinAndLeave:
    """A cache whose slots come and go as in a group, beside what each hypothesis has seen."""

    def __init__(self, num_beams: int, max_slots: int, *, has_bias: bool = False) -> None:
        self.num_beams = num_beams
        self.by_distance = torch.randn(LAYOUT.num_heads, 7) * has_bias
        self.biases = [PositionBias(self.by_distance)] * has_bias
        self.num_slots = 1
        self.max_slots = max_slots
        self.cache = self_cache(1, num_beams)
        self.lineages = Lineages(0, num_beams)

    @property
    def num_used(self) -> int:
        return len(self.lineages.keys)

    def join(self) -> None:
        if self.num_used == self.num_slots:
            self._resize(2 * self.num_slots)
        self.cache.clear(self.num_used)
        self.lineages.keys += Lineages(1, self.num_beams).keys

    def leave(self, slot: int) -> None:
        last = self.num_used - 1
        if slot != last:
            self.cache.move(last, slot)
        self.lineages.keys[slot] = self.lineages.keys[last]
        self.lineages.keys.pop()
        if 0 < self.num_used * 4 <= self.num_slots:
            self._resize(self.num_slots // 2)

    def step(self) -> None:
        """One step, whose attention is that over each hypothesis' own lineage."""
        shape = (self.num_used, self.num_beams, LAYOUT.num_heads, LAYOUT.head_dim)
        keys, query = torch.randn(shape), torch.randn(shape)
        view = self.cache.step(self.num_used, self.biases)
        view.write(1, keys, keys)
        self.lineages.append(keys)
        context = context_of(query, view)
        for slot in range(self.num_used):
            for beam in range(self.num_beams):
                seen = self.lineages.keys[slot][beam]
                expected = plain_attention(query[slot, beam], seen, self.by_distance)
                torch.testing.assert_close(context[slot, beam], expected, rtol=1e-5, atol=1e-5)
        parents = torch.randint(self.num_beams, shape[:2])
        self.cache.choose_parents(parents)
        self.lineages.choose_parents(parents)

    def _resize(self, num_slots: int) -> None:
        self.cache.resize(num_slots, num_used=self.num_used)
        self.num_slots = num_slots


@settings(max_examples=25, deadline=None)
@given(
    num_beams=st.integers(1, 4),
    events=st.lists(st.sampled_from(["join", "leave", *["step"] * 8]), max_size=100),
    has_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_beams_attend_to_exactly_what_their_lineage_wrote(
    num_beams: int, events: list[str], has_bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    group = JoinAndLeave(num_beams, max_slots=8, has_bias=has_bias)
    for event in events:
        if event == "join" and group.num_used < group.max_slots:
            group.join()
        elif event == "leave" and group.num_used > 1:
            group.leave(int(torch.randint(group.num_used, (1,))))
        elif event == "step" and group.num_used:
            group.step()


def test_slots_that_come_and_go_for_long_see_only_their_own_steps() -> None:
    torch.manual_seed(1)
    group = JoinAndLeave(2, max_slots=4)
    for number in range(200):
        if number % 20 == 0:
            if group.num_used == group.max_slots:
                group.leave(0)
            group.join()
        group.step()


def test_choosing_parents_moves_no_key() -> None:
    cache = self_cache(1, 3)
    view = cache.step(1)
    keys = torch.randn(1, 3, LAYOUT.num_heads, LAYOUT.head_dim)
    view.write(0, keys, keys)
    before = view.entries.keys.clone()
    cache.choose_parents(torch.tensor([[2, 2, 0]]))
    assert torch.equal(cache.step(1).entries.keys[..., :3, :], before)


def num_entries(view: SelfAttentionStep) -> int:
    return view.entries.keys.shape[3]


def memory_of(view: SelfAttentionStep) -> int:
    return view.entries.keys.untyped_storage().data_ptr()


def test_what_no_hypothesis_descends_from_is_not_read_for_long() -> None:
    num_slots, num_beams, num_steps = 3, 4, STEPS_OF_GROWTH - 1
    cache = self_cache(num_slots, num_beams)
    for slot in range(num_slots):
        cache.clear(slot)
    first = memory_of(cache.step(num_slots))
    for _ in range(num_steps):
        cache.choose_parents(torch.full((num_slots, num_beams), 2))
        view = cache.step(num_slots)
    assert num_entries(view) < 2 * num_steps  # num_beams times as many were written
    assert (torch.isfinite(view.biases[0]).sum(-1) == num_steps + 1).all()
    assert memory_of(view) == first


def test_a_cache_grows_by_no_more_than_is_reserved_where_no_beam_ever_ends() -> None:
    num_beams, num_steps = 4, 2 * STEPS_OF_GROWTH
    cache = self_cache(1, num_beams)
    cache.clear(0)
    for number in range(num_steps):
        view = cache.step(1)
        assert num_entries(view) == (number + 1) * num_beams
    capacity = view.entries.keys.untyped_storage().nbytes() // (LAYOUT.bytes_per_token // 2)
    assert num_steps * num_beams <= capacity <= (num_steps + STEPS_OF_GROWTH) * num_beams


def test_a_cache_whose_requests_come_and_go_stays_in_its_memory() -> None:
    cache = self_cache(1, 1)
    views = []
    for number in range(6 * STEPS_OF_GROWTH):
        if number % 10 == 0:
            cache.clear(0)
        views.append(cache.step(1))
    assert len(set(map(memory_of, views))) == 1
    assert max(map(num_entries, views)) < STEPS_OF_GROWTH


def test_a_slot_is_clear_of_what_its_last_request_wrote() -> None:
    cache = self_cache(1, 1)
    for _ in range(5):
        cache.step(1)
    cache.clear(0)
    view = cache.step(1)
    cache.choose_parents(torch.tensor([[0]]))
    later = cache.step(1)
    assert torch.isfinite(view.biases[0]).sum(-1).tolist() == [[1], [1]]
    assert torch.isfinite(later.biases[0]).sum(-1).tolist() == [[2], [2]]


def test_each_layer_may_have_a_position_bias_of_its_own() -> None:
    cache = self_cache(1, 1)
    tables = [torch.randn(LAYOUT.num_heads, 3) for _ in range(LAYOUT.num_layers)]
    cache.step(1)
    view = cache.step(1, [PositionBias(table) for table in tables])
    for bias, table in zip(view.biases, tables, strict=True):
        assert torch.equal(bias[:, 0], table[:, :2].flip(-1))


def test_memory_that_is_given_back_is_handed_out_again() -> None:
    pool = KeyValuesPool(LAYOUT)
    first, second = pool.take(2, 8), pool.take(2, 16)
    pool.give_back(first)
    again = pool.take(1, 16)
    assert again.keys.data_ptr() == first.keys.data_ptr()
    assert again.keys.shape == (LAYOUT.num_layers, 1, LAYOUT.num_heads, 16, LAYOUT.head_dim)
    pool.give_back(second)
    assert pool.num_entries == first.num_entries + second.num_entries


def test_the_pool_never_holds_more_than_was_once_in_use() -> None:
    pool = KeyValuesPool(LAYOUT)
    most = pool.take(1, 64)
    pool.give_back(most)
    for length in range(1, 64):
        taken = pool.take(1, length)
        assert pool.num_entries <= most.num_entries
        pool.give_back(taken)


def test_sources_of_different_length_are_masked_and_move_whole() -> None:
    cache = CrossAttentionCache(KeyValuesPool(LAYOUT), 2, 8)
    sources = [torch.randn(length, LAYOUT.num_heads, LAYOUT.head_dim) for length in (3, 6)]
    for slot, source in enumerate(sources):
        cache.open(slot, len(source))
        for layer in range(LAYOUT.num_layers):
            cache.write(slot, layer, source, source)
    entries, bias = cache.view(2, 1)
    assert entries.keys.shape[3] == 6
    assert torch.isfinite(bias).sum(-1).flatten().tolist() == [3, 3, 6, 6]
    cache.move(1, 0)
    entries, bias = cache.view(1, 1)
    assert torch.equal(entries.values[1, 0], sources[1].transpose(0, 1))
    assert torch.isfinite(bias).all()
