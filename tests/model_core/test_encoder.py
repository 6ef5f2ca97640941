import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_core.batching import may_pad
from model_core.encoder import (
    ACCELERATOR_BATCHES,
    CPU_BATCHES,
    Encoder,
    EncoderOutputCache,
    batch_by_length,
    batch_by_shape,
)
from model_core.self_check import is_padding_harmless
from tests import tiny
from tests.lean import load_lean


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_batches_hold_every_source_once_and_waste_little_on_padding(lengths: list[int]) -> None:
    sources = [(number,) * length for number, length in enumerate(lengths)]
    for limits in (CPU_BATCHES, ACCELERATOR_BATCHES):
        batches = batch_by_length(sources, limits)
        assert sorted(source for batch in batches for source in batch) == sorted(sources)
        for batch in batches:
            lengths = list(map(len, batch))
            for num_others, (last, joining) in enumerate(pairwise(lengths), start=1):
                assert 0 <= num_others * (joining - last) <= limits.max_padding
            assert len(batch) == 1 or len(batch) * lengths[-1] <= limits.max_tokens


def test_few_sources_of_about_one_length_share_a_batch() -> None:
    sources = [(1,) * length for length in (12, 20, 24, 60)]
    assert [list(map(len, batch)) for batch in batch_by_length(sources)] == [[12, 20, 24], [60]]


def test_a_source_is_encoded_alike_alone_and_in_a_padded_batch() -> None:
    lean = load_lean("bart")
    encoder = Encoder(lean.model, lean.defaults.pad_token_id)
    sources = [(5, 6, 7), (8, 9, 10, 11, 12, 2), (13, 2)]
    with torch.inference_mode():
        batched = encoder(sources)
        for source, outputs in zip(sources, batched, strict=True):
            torch.testing.assert_close(outputs, encoder([source])[0], rtol=1e-4, atol=1e-4)


def outputs(num_tokens: int) -> torch.Tensor:
    return torch.zeros(num_tokens, 2)  # 8 bytes a token


def test_cache_drops_the_least_recently_used_beyond_its_bytes() -> None:
    cache = EncoderOutputCache(max_bytes=8 * 10)
    cache.put((1,), outputs(4))
    cache.put((2,), outputs(4))
    assert cache.get((1,)) is not None
    cache.put((3,), outputs(4))
    assert cache.get((2,)) is None
    assert cache.get((1,)) is not None
    assert cache.num_bytes == 8 * 8


def test_cache_keeps_nothing_larger_than_its_bound() -> None:
    cache = EncoderOutputCache(max_bytes=8)
    cache.put((1, 2), outputs(2))
    assert cache.get((1, 2)) is None
    assert cache.num_bytes == 0


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), max_size=40),
    st.integers(0, 100),
)
def test_cache_never_holds_more_than_its_bound(puts: list[tuple[int, int]], bound: int) -> None:
    cache = EncoderOutputCache(bound)
    held: dict[tuple[int, ...], torch.Tensor] = {}
    for key, num_tokens in puts:
        cache.put((key,), outputs(num_tokens))
        assert cache.num_bytes <= bound
    held = {(key,): found for key in range(7) if (found := cache.get((key,))) is not None}
    assert sum(each.nbytes for each in held.values()) == cache.num_bytes


@pytest.mark.parametrize("name", tiny.LEAN_ARCHITECTURES)
@torch.inference_mode()
def test_what_may_share_a_batch_gets_the_outputs_that_it_gets_alone(name: str) -> None:
    model = tiny.LEAN_ARCHITECTURES[name]().double()
    pad_token_id = load_lean(name).defaults.pad_token_id
    encoder = Encoder(model, pad_token_id, may_pad=may_pad(model))
    rng = random.Random(name)
    lengths = [3, 3, 6, 11, 14, 15, 15, 17, 24, 24, 40, 50]
    known = min(encoder.vocab_size, tiny.VOCAB)
    choices = [token for token in range(known) if token != pad_token_id]
    sources = [tuple(rng.choices(choices, k=length)) for length in lengths]
    for batch in [sources] if encoder.may_pad else encoder.batches(sources):
        for source, outputs in zip(batch, encoder(batch), strict=True):
            torch.testing.assert_close(outputs, encoder([source])[0], rtol=1e-9, atol=1e-9)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 9))
def test_batches_of_one_shape_hold_every_source_once(lengths: list[int], step: int) -> None:
    sources = [(number,) * length for number, length in enumerate(lengths)]
    max_tokens = 60
    batches = batch_by_shape(sources, max_tokens, lambda length: -(-length // step) * step)
    assert sorted(source for batch in batches for source in batch) == sorted(sources)
    for batch in batches:
        padded = {-(-len(source) // step) * step for source in batch}
        assert len(padded) == 1
        assert len({len(source) in padded for source in batch}) == 1
        assert len(batch) == 1 or len(batch) * padded.pop() <= max_tokens


def test_an_encoder_that_feels_padding_gets_none() -> None:
    encoder = Encoder(load_lean("bart").model, 1, may_pad=False)
    sources = [(5,) * length for length in (3, 7, 3, 8)]
    assert sorted(map(len, encoder.batches(sources))) == [1, 1, 2]
    assert encoder.padded_len(sources[:1]) == 3


def test_an_encoder_that_looks_at_padding_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.LEAN_ARCHITECTURES["bart"]()
    encoder = Encoder(model, 1)
    assert is_padding_harmless(encoder, 1)
    module = model.get_encoder()
    forward = module.forward

    def blind(**arguments: Any) -> Any:
        return forward(**arguments | {"attention_mask": torch.ones_like(arguments["input_ids"])})

    monkeypatch.setattr(module, "forward", blind)
    assert not is_padding_harmless(encoder, 1)
