"""Bodies as nobody should send them, and near them those that everybody does."""

import math
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from app.schemas import Parameters
from model_core.bounds import BOUNDS, MAX_RUN_LEN, Bound

Strategy = st.SearchStrategy[Any]

_HUGE = 10**400
CHARACTERS = st.characters(exclude_categories=())  # all of Unicode, lone surrogates too
WRONG: Strategy = st.one_of(
    st.sampled_from(
        [
            *(None, True, "", "x", "1", [], {}, [[]], [None], {"a": 1}, -1, 1.5, -0.0, 5e-324),
            *(math.nan, math.inf, -math.inf, _HUGE, -_HUGE, 2**63, 1e308, "\ud800", [1] * 1000),
        ]
    ),
    st.text(CHARACTERS, max_size=5),
)
TOKEN_IDS = st.one_of(st.integers(0, 300), st.sampled_from([-1, 2**31, 2**63, 10**6]))


def at_and_around(bound: Bound) -> Strategy:
    """The ends of a bound, what is just below and beyond them, and what lies between."""
    least, most = bound.least, bound.most
    ends = [least, most, least - 1, most + 1, math.nextafter(least, -math.inf)]
    ends += [math.nextafter(most, math.inf), (least + most) / 2, least + 1]
    whole = [int(end) for end in ends]
    return st.one_of(
        st.sampled_from([*whole, *ends]), st.integers(int(least), int(min(most, least + 8)))
    )


def counted(entry: Strategy, bound: Bound) -> Strategy:
    """Lists with few entries, and with as many as the bound allows and one more."""
    most = int(bound.most)
    many = st.builds(
        lambda value, count: [value] * count, entry, st.sampled_from([most, most + 1, 10_000])
    )
    return st.one_of(st.lists(entry, max_size=4), st.lists(entry, max_size=4), many)


SHORT_RUNS = st.lists(TOKEN_IDS, max_size=3)
RUNS = counted(TOKEN_IDS, Bound(1, MAX_RUN_LEN))
BIASES = st.floats() | st.sampled_from([-1e4, 1e4, 1e5])
SHAPED: dict[str, Callable[[Bound], Strategy]] = {
    "eos_token_id": lambda bound: TOKEN_IDS | counted(TOKEN_IDS, bound),
    "forced_eos_token_id": lambda bound: TOKEN_IDS | counted(TOKEN_IDS, bound),
    "suppress_tokens": lambda bound: counted(TOKEN_IDS, bound),
    "begin_suppress_tokens": lambda bound: counted(TOKEN_IDS, bound),
    "bad_words_ids": lambda bound: counted(SHORT_RUNS, bound) | st.lists(RUNS, max_size=3),
    "sequence_bias": lambda bound: (
        counted(st.tuples(SHORT_RUNS, BIASES).map(list), bound)
        | st.lists(st.tuples(RUNS, BIASES).map(list), max_size=3)
    ),
    "stop_strings": lambda bound: (
        st.text(CHARACTERS, max_size=70) | counted(st.text(CHARACTERS, max_size=3), bound)
    ),
    "do_sample": lambda bound: st.booleans(),
}
UNBOUNDED: dict[str, Strategy] = {
    "early_stopping": st.sampled_from([True, False, "never", "always"]),
    "exponential_decay_length_penalty": st.tuples(
        st.integers(-1, 1_000_001), st.floats() | st.sampled_from([0.5, 1.01, 10.0])
    ).map(list),
    "decoder_start_token_id": TOKEN_IDS,
    "forced_bos_token_id": TOKEN_IDS,
    "remove_invalid_values": st.booleans(),
    "renormalize_logits": st.booleans(),
}


def parameter(name: str) -> Strategy:
    """Values of one parameter: meant well, at its bounds, or wrong."""
    shape = SHAPED.get(name, at_and_around)
    meant = UNBOUNDED[name] if name in UNBOUNDED else shape(BOUNDS[name])
    return st.one_of(meant, meant, meant, WRONG)


PARAMETERS: Strategy = st.one_of(
    st.fixed_dictionaries({}, optional={name: parameter(name) for name in Parameters.model_fields}),
    st.sampled_from(sorted(Parameters.model_fields)).flatmap(
        lambda name: st.fixed_dictionaries({name: parameter(name)})
    ),
    st.dictionaries(st.text(CHARACTERS, max_size=8), WRONG, max_size=3),
    WRONG,
)
"""All of them at once, one alone, others, or none."""

TEXT: Strategy = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=60),
    st.text(st.sampled_from(" abcdeABC.,!?é中\u0301\u200b\ufeff\x00<>/s"), max_size=200),
    st.builds(
        lambda word, count: word * count, st.text(CHARACTERS, max_size=4), st.integers(1, 3000)
    ),
)
LONG_TEXT: Strategy = st.builds(
    lambda word, count: word * (count // len(word)),
    st.text(CHARACTERS, min_size=1, max_size=12),
    st.sampled_from([100_000, 999_999, 1_000_000, 1_000_001]),
)
LANGUAGE: Strategy = st.sampled_from(["en", "de", "eng", "de-AT", "xx", "", "x" * 65]) | WRONG
COMMON: dict[str, Strategy] = {
    "parameters": PARAMETERS,
    "overflow": st.sampled_from(["error", "truncate", "truncate", "cut"]) | WRONG,
    "timeout_s": st.sampled_from([0, 5e-324, 20, 600, 601, -1]) | WRONG,
    "target_prefix": TEXT | st.integers(1, 1200).map(lambda count: "ein " * count) | WRONG,
}


def bodies(path: str) -> Strategy:
    """Bodies of a route, most of them nearly right."""
    text = st.one_of(TEXT, TEXT, TEXT, st.lists(TEXT | WRONG, max_size=3), WRONG)
    optional = dict(COMMON)
    if path == "/translate":
        optional |= {"source_lang": LANGUAGE, "target_lang": LANGUAGE}
    sparse = [
        st.fixed_dictionaries({"text": text, name: values}) for name, values in optional.items()
    ]
    return st.one_of(
        *sparse,
        st.fixed_dictionaries({"text": TEXT, "parameters": PARAMETERS}),
        st.fixed_dictionaries({"text": text}, optional=optional),
        st.dictionaries(st.text(CHARACTERS, max_size=8), WRONG, max_size=3),
        WRONG,
    )
