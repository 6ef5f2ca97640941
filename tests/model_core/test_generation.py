"""Overrides over defaults: what a request's parameters become."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from model_core.bounds import LoweredBounds
from model_core.errors import InvalidParameterError
from model_core.generation import (
    GenerationDefaults,
    GenerationLimits,
    GenerationOverrides,
    GenerationParameters,
)
from model_core.resolve import DEFAULT_MAX_LENGTH, resolve
from tests import tiny

LIMITS = GenerationLimits(max_num_beams=8, max_target_len=300)


def defaults(**values: Any) -> GenerationDefaults:
    return GenerationDefaults(
        values=GenerationOverrides(**{"eos_token_id": 2, **values}),
        decoder_start_token_id=2,
        pad_token_id=1,
        vocab_size=100,
        max_target_len=200,
    )


def resolved(given: GenerationDefaults | None = None, **overrides: Any) -> GenerationParameters:
    return resolve(given or defaults(), GenerationOverrides(**overrides), limits=LIMITS)


def test_request_goes_before_checkpoint_and_checkpoint_before_library() -> None:
    checkpoint = defaults(num_beams=4, length_penalty=2.0)
    parameters = resolved(checkpoint, num_beams=2)
    assert parameters.num_beams == 2
    assert parameters.length_penalty == 2.0
    assert parameters.repetition_penalty == 1.0


@pytest.mark.parametrize(
    ("overrides", "max_length", "min_length"),
    [
        ({"max_length": 30}, 30, 0),
        ({"max_new_tokens": 30}, 31, 0),
        ({"max_length": 50, "max_new_tokens": 30}, 31, 0),
        ({"max_length": 30, "min_length": 5}, 30, 5),
        ({"max_length": 30, "min_new_tokens": 5}, 30, 6),
        ({"max_length": 30, "min_length": 9, "min_new_tokens": 5}, 30, 6),
        ({"max_length": 30, "min_length": 30}, 30, 30),
    ],
)
def test_new_tokens_go_before_lengths_and_exclude_the_start_token(
    overrides: dict[str, Any], max_length: int, min_length: int
) -> None:
    parameters = resolved(**overrides)
    assert (parameters.max_length, parameters.min_length) == (max_length, min_length)


def test_length_of_the_request_hides_new_tokens_of_the_checkpoint() -> None:
    checkpoint = defaults(max_new_tokens=100, min_new_tokens=20)
    parameters = resolved(checkpoint, max_length=30, min_length=3)
    assert (parameters.max_length, parameters.min_length) == (30, 3)


def test_checkpoint_without_a_length_has_the_stated_default_within_its_positions() -> None:
    assert resolved().max_length == 200
    roomy = dataclasses.replace(defaults(), max_target_len=None)
    assert resolved(roomy).max_length == DEFAULT_MAX_LENGTH


def test_checkpoints_own_values_are_lowered_to_the_limits() -> None:
    parameters = resolved(defaults(max_length=1000, num_beams=20))
    assert parameters.max_length == 200
    assert parameters.num_beams == 8


INVALID: list[tuple[dict[str, Any], str, str]] = [
    ({"num_beams": 0}, "num_beams", "whole number from 1"),
    ({"num_beams": True}, "num_beams", "whole number"),
    ({"num_beams": 2.0}, "num_beams", "whole number"),
    ({"num_beams": 9}, "num_beams", "at most 8 (the server's limit)"),
    ({"num_return_sequences": 0}, "num_return_sequences", "from 1"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences", "at most num_beams, 2"),
    ({"length_penalty": "high"}, "length_penalty", "a number from -2 to 10"),
    ({"length_penalty": float("nan")}, "length_penalty", "a number"),
    ({"length_penalty": 11}, "length_penalty", "a number"),
    ({"repetition_penalty": 0.0}, "repetition_penalty", "from 0.01"),
    ({"repetition_penalty": False}, "repetition_penalty", "from 0.01"),
    ({"early_stopping": "always"}, "early_stopping", '"never"'),
    ({"early_stopping": 1}, "early_stopping", "true, false"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size", "from 0"),
    ({"max_length": 1}, "max_length", "from 2"),
    ({"max_new_tokens": 0}, "max_new_tokens", "from 1"),
    ({"max_length": 201}, "max_length", "at most 200 (the checkpoint's decoder positions)"),
    ({"max_new_tokens": 200}, "max_new_tokens", "at most 199"),
    ({"min_length": -1}, "min_length", "from 0"),
    ({"max_length": 10, "min_length": 11}, "min_length", "at most 10"),
    ({"max_length": 10, "min_new_tokens": 10}, "min_new_tokens", "at most 9"),
    ({"eos_token_id": 100}, "eos_token_id", "a token id from 0 to 99"),
    ({"eos_token_id": [3, -1]}, "eos_token_id", "a token id"),
    ({"eos_token_id": True}, "eos_token_id", "a token id"),
    ({"decoder_start_token_id": 100}, "decoder_start_token_id", "a token id"),
    ({"forced_bos_token_id": 100}, "forced_bos_token_id", "a token id"),
    ({"forced_eos_token_id": [100]}, "forced_eos_token_id", "a token id"),
    ({"suppress_tokens": ["a"]}, "suppress_tokens", "a token id"),
    ({"suppress_tokens": range(100)}, "suppress_tokens", "some token left"),
    (
        {"suppress_tokens": range(50), "bad_words_ids": [[each] for each in range(50, 100)]},
        "suppress_tokens",
        "some token left",
    ),
    ({"suppress_tokens": [7], "forced_bos_token_id": 7}, "forced_bos_token_id", "not suppressed"),
    ({"suppress_tokens": [7], "forced_eos_token_id": [7]}, "forced_eos_token_id", "not suppressed"),
    ({"bad_words_ids": [5]}, "bad_words_ids", "non-empty lists"),
    ({"bad_words_ids": [[]]}, "bad_words_ids", "non-empty lists"),
    ({"bad_words_ids": [[5, 100]]}, "bad_words_ids", "a token id"),
    ({"bad_words_ids": [[5] * 65]}, "bad_words_ids", "at most 64"),
    ({"bad_words_ids": [[5]] * 1001}, "bad_words_ids", "at most 1000"),
    ({"sequence_bias": [[[5], "much"]]}, "sequence_bias", "a bias from -10000 to 10000"),
    ({"sequence_bias": [[[5], float("inf")]]}, "sequence_bias", "a bias"),
    ({"sequence_bias": [[[], 1.0]]}, "sequence_bias", "pairs of token ids"),
    ({"sequence_bias": [[[5], 1.0], [[5], 2.0]]}, "sequence_bias", "each run of ids once"),
    ({"sequence_bias": "tea"}, "sequence_bias", "pairs of token ids"),
    ({"temperature": 0}, "temperature", "a number from 0.001 to 100"),
    ({"top_k": -1}, "top_k", "a whole number from 0"),
    ({"top_p": 1.1}, "top_p", "a number from 0 to 1"),
    ({"min_p": float("nan")}, "min_p", "a number from 0 to 1"),
    ({"eta_cutoff": 1.0}, "eta_cutoff", "below 1"),
    ({"typical_p": 0.0}, "typical_p", "above 0"),
    ({"seed": 2**53}, "seed", "a whole number"),
    ({"do_sample": 1}, "do_sample", "true or false"),
    ({"num_return_sequences": 2}, "num_return_sequences", "unless do_sample is true"),
    ({"do_sample": True, "num_return_sequences": 17}, "num_return_sequences", "from 1 to 16"),
    (
        {"do_sample": True, "num_beams": 2, "num_return_sequences": 3},
        "num_return_sequences",
        "at most num_beams, 2",
    ),
    ({"encoder_repetition_penalty": 0}, "encoder_repetition_penalty", "from 0.01"),
    ({"exponential_decay_length_penalty": [5]}, "exponential_decay_length_penalty", "a factor"),
    (
        {"exponential_decay_length_penalty": [5, 3.0], "max_length": 200},
        "exponential_decay_length_penalty",
        "stays below 100000",
    ),
    (
        {"exponential_decay_length_penalty": [5, 1.1], "remove_invalid_values": True},
        "exponential_decay_length_penalty",
        "none together with remove_invalid_values",
    ),
    ({"stop_strings": ["a" * 65]}, "stop_strings", "strings of 1 to 64 characters"),
    ({"stop_strings": ""}, "stop_strings", "strings of 1 to 64 characters"),
    ({"stop_strings": ["a"] * 9}, "stop_strings", "at most 8 of them"),
    ({"begin_suppress_tokens": [100]}, "begin_suppress_tokens", "a token id"),
    ({"target_prefix_ids": [5] * 9, "max_length": 10}, "target_prefix", "at most 8 tokens"),
    ({"target_prefix_ids": [5] * 300, "max_new_tokens": 9}, "target_prefix", "at most 198 tokens"),
    ({"target_prefix_ids": [100]}, "target_prefix", "a token id"),
    (
        {"target_prefix_ids": [100], "forced_bos_token_id": 100},
        "forced_bos_token_id",
        "a token id",
    ),
]


@pytest.mark.parametrize(("overrides", "field", "expected"), INVALID)
def test_invalid_value_names_field_value_and_what_was_expected(
    overrides: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        resolved(**overrides)
    assert caught.value.field == field
    assert expected in caught.value.expected


def test_operators_limit_is_named_where_it_is_the_bound() -> None:
    roomy = dataclasses.replace(defaults(), max_target_len=None)
    with pytest.raises(InvalidParameterError, match=r"at most 300 .the server's limit."):
        resolved(roomy, max_length=301)


def test_maximum_below_the_checkpoints_minimum_is_refused_with_a_way_out() -> None:
    checkpoint = defaults(min_length=56, max_length=142)
    with pytest.raises(InvalidParameterError, match="max_length is 40: expected at least 56"):
        resolved(checkpoint, max_length=40)
    assert resolved(checkpoint, max_length=40, min_length=0).max_length == 40


def test_eos_alone_is_no_bad_word_and_duplicates_count_once() -> None:
    parameters = resolved(bad_words_ids=[[2], [5], [5], [2, 6]], eos_token_id=[2, 2, 3])
    assert parameters.bad_words_ids == ((5,), (2, 6))
    assert parameters.eos_token_ids == (2, 3)


def test_empty_lists_take_back_what_the_checkpoint_forbids() -> None:
    taken_back = {
        "bad_words_ids": [[5]],
        "suppress_tokens": [6],
        "begin_suppress_tokens": [7],
        "eos_token_id": [2],
        "forced_eos_token_id": [2],
        "sequence_bias": [[[5], 1.0]],
        "stop_strings": ["tea"],
    }
    parameters = resolved(defaults(**taken_back), **{name: [] for name in taken_back})
    assert parameters == resolved(defaults(), eos_token_id=[])
    decay = {"exponential_decay_length_penalty": [3, 1.1]}
    assert resolved(defaults(**decay), exponential_decay_length_penalty=[]) == resolved()


def test_a_checkpoints_own_lists_have_no_bound() -> None:
    words = [[each, other] for each in range(5, 50) for other in range(5, 50)]
    assert len(resolved(defaults(bad_words_ids=words)).bad_words_ids) == len(words) > 1000


def test_equal_requests_are_equal_and_hashable_however_they_are_written() -> None:
    one = resolved(eos_token_id=[2], max_new_tokens=29, bad_words_ids=[[5, 6]])
    other = resolved(eos_token_id=2, max_length=30, bad_words_ids=((5, 6),), length_penalty=1)
    assert one == other
    assert hash(one) == hash(other)


def test_new_tokens_do_not_count_the_prefix() -> None:
    parameters = resolved(target_prefix_ids=[5, 6], max_new_tokens=10, min_new_tokens=4)
    assert parameters.prompt_ids == (2, 5, 6)
    assert (parameters.max_length, parameters.min_length) == (13, 7)


def test_what_only_drawing_reads_tells_no_other_requests_apart() -> None:
    assert resolved(temperature=0.5, seed=3) == resolved()
    assert resolved(do_sample=True, seed=3) != resolved(do_sample=True, seed=4)


def test_drawing_has_the_librarys_defaults_and_a_seed_of_its_own() -> None:
    one, other = resolved(do_sample=True), resolved(do_sample=True)
    assert (one.temperature, one.top_k, one.top_p) == (1.0, 50, 1.0)
    assert one.seed != other.seed
    assert resolved(do_sample=True, num_return_sequences=5).num_hypotheses == 5


@pytest.mark.parametrize(
    ("lowered", "overrides", "field"),
    [
        ({"top_k": 10}, {"do_sample": True, "top_k": 11}, "top_k"),
        ({"temperature": 1.0}, {"do_sample": True, "temperature": 1.1}, "temperature"),
        ({"stop_strings": 1}, {"stop_strings": ["a", "b"]}, "stop_strings"),
        ({"bad_words_ids": 1}, {"bad_words_ids": [[5], [6]]}, "bad_words_ids"),
        ({"do_sample": 0}, {"do_sample": True}, "do_sample"),
    ],
)
def test_the_operators_bounds_hold_for_requests_but_not_for_the_checkpoint(
    lowered: dict[str, float], overrides: dict[str, Any], field: str
) -> None:
    limits = GenerationLimits(bounds=LoweredBounds(lowered))
    with pytest.raises(InvalidParameterError) as caught:
        resolve(defaults(), GenerationOverrides(**overrides), limits=limits)
    assert caught.value.field == field
    resolve(defaults(**overrides), GenerationOverrides(), limits=limits)


@pytest.fixture(scope="module")
def bart() -> PreTrainedModel:
    return tiny.TINY_ARCHITECTURES["bart"]()


token_ids = st.integers(5, tiny.VOCAB - 1)


@st.composite
def valid_overrides(draw: st.DrawFn) -> dict[str, Any]:
    """What may be asked of the tiny BART, as keyword arguments of `generate()`."""
    num_beams = draw(st.integers(1, 4))
    max_new_tokens = draw(st.integers(3, 14))
    optional = {
        "length_penalty": st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "no_repeat_ngram_size": st.integers(0, 3),
        "repetition_penalty": st.sampled_from([0.8, 1.0, 1.3]),
        "forced_bos_token_id": token_ids,
        "forced_eos_token_id": st.one_of(st.just(2), st.just([2, 9])),
        "eos_token_id": st.one_of(st.just(2), st.lists(token_ids, min_size=1, max_size=3)),
        "bad_words_ids": st.lists(
            st.lists(token_ids, min_size=1, max_size=2), min_size=1, max_size=3
        ),
        "num_return_sequences": st.integers(1, num_beams),
        "decoder_start_token_id": token_ids,
        "encoder_no_repeat_ngram_size": st.integers(0, 2),
        "encoder_repetition_penalty": st.sampled_from([0.8, 1.0, 1.3]),
        "begin_suppress_tokens": st.lists(token_ids, min_size=1, max_size=5),
        "sequence_bias": st.just([[[7], 2.0], [[8, 9], -2.0]]),
        "renormalize_logits": st.booleans(),
        "remove_invalid_values": st.booleans(),
    }
    given = {name: draw(values) for name, values in optional.items() if draw(st.booleans())}
    by_length = draw(st.booleans())
    given["max_length" if by_length else "max_new_tokens"] = max_new_tokens
    if draw(st.booleans()):
        name = "min_length" if draw(st.booleans()) else "min_new_tokens"
        given[name] = draw(st.integers(0, max_new_tokens - 1))
    return {"num_beams": num_beams, **given}


@settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(overrides=valid_overrides())
def test_resolved_request_means_what_generate_understands_by_the_overrides(
    bart: PreTrainedModel, overrides: dict[str, Any]
) -> None:
    """`generate(**resolved)` gives the tokens of `generate(**overrides)`, defaults included."""
    named = bart.generation_config.to_dict()
    checkpoint = dataclasses.replace(
        defaults(
            **{
                each.name: named[each.name]
                for each in dataclasses.fields(GenerationOverrides)
                if named.get(each.name) is not None
            }
        ),
        vocab_size=tiny.VOCAB,
    )
    parameters = resolved(checkpoint, **overrides)
    ids = torch.tensor([tiny.random_sources(1, seed=3)[0]])
    model: Any = bart
    source = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ours = model.generate(**source, **parameters.generate_kwargs())
    theirs = model.generate(**source, **overrides)
    assert ours.tolist() == theirs.tolist()
