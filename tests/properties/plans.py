"""What one run of the engine is made of, drawn by Hypothesis."""

import random
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from hypothesis import strategies as st
from transformers import StopStringCriteria

from model_core.generation import GenerationParameters
from tests.lean import load_lean, parameter_choices, parameters_of, random_source, stop_strings_of

NUM_SOURCES = 8
STOP_STRINGS: list[tuple[str, ...]] = [(), ("e",), ("ar", "the"), ("n s", "ie", ".")]
TICK_S = 1.0
"""The engine's clock moves by this much in every step."""


@dataclass(frozen=True)
class Wanted:
    """A request: one of the sources of its architecture, and what it names."""

    source: int
    named: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Submit:
    """Somebody asks for a request; somebody may have before."""

    request: int
    timeout_s: float | None = None


@dataclass(frozen=True)
class Step:
    count: int


@dataclass(frozen=True)
class Cancel:
    """The caller of one of the submissions so far hangs up."""

    submission: int


Action = Submit | Step | Cancel


@dataclass(frozen=True)
class Plan:
    """One run: what is asked for, when, and with how much room."""

    requests: tuple[Wanted, ...]
    actions: tuple[Action, ...] = ()
    max_running_requests: int = 4
    max_encode_tokens: int = 4096
    encoder_cache_bytes: int = 0


@cache
def source_ids(name: str, number: int) -> tuple[int, ...]:
    rng = random.Random(f"{name} {number}")
    return random_source(load_lean(name), rng, longest=rng.choice([3, 12, 40, 70]))


@cache
def stop_strings(name: str) -> list[tuple[str, ...]]:
    """Those that the library takes: it refuses strings that no token ends with."""
    tokenizer = stop_strings_of(name).tokenizer
    known = []
    for strings in STOP_STRINGS:
        with suppress(ValueError):
            StopStringCriteria(tokenizer, list(strings or "e"))
            known.append(strings)
    return known or [()]


def parameters(name: str, wanted: Wanted) -> GenerationParameters:
    return parameters_of(load_lean(name), dict(wanted.named))


def plans(name: str, only: Collection[str] | None = None) -> st.SearchStrategy[Plan]:
    """Runs over one architecture; requests name no parameters but `only` these, if given."""
    values = {**parameter_choices(name), "stop_strings": stop_strings(name)}
    choices = {
        each: st.sampled_from(values[each]) for each in values if only is None or each in only
    }
    named = st.fixed_dictionaries({}, optional=choices).map(lambda drawn: tuple(drawn.items()))
    wanted = st.builds(Wanted, st.integers(0, NUM_SOURCES - 1), named)
    timeouts = st.none() | st.sampled_from([1.5, 4.5, 12.5])
    action = st.one_of(
        st.builds(Submit, st.integers(0, 4), timeouts),
        st.builds(Step, st.integers(1, 6)),
        st.builds(Cancel, st.integers(0, 9)),
    )
    return st.builds(
        Plan,
        st.lists(wanted, min_size=1, max_size=5).map(tuple),
        st.lists(action, max_size=14).map(tuple),
        max_running_requests=st.sampled_from([4, 1, 2, 16]),
        max_encode_tokens=st.sampled_from([4096, 1, 60]),
        encoder_cache_bytes=st.sampled_from([0, 6000, 1 << 20]),
    )
