"""A short run of what `make fuzz` does at length, and what it once found."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from app.schemas import Parameters
from model_core.bounds import BOUNDS, MAX_RUN_LEN
from tests.fuzz.bodies import bodies
from tests.fuzz.in_process import Fuzzed
from tests.fuzz.report import RESULT, shown, table_of

ALL = tuple(HealthCheck)


@pytest.mark.parametrize("path", ["/translate", "/summarize"])
def test_every_body_is_answered_as_the_page_says(path: str, fuzzed: Fuzzed) -> None:
    @settings(max_examples=30, suppress_health_check=ALL)
    @given(bodies(path))
    def check(body: Any) -> None:
        fuzzed.post(path, body)

    check()


NUMBERS = [name for name in BOUNDS if name in Parameters.model_fields]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_parameter_is_answered_at_its_bounds_and_beyond(name: str, fuzzed: Fuzzed) -> None:
    bound = BOUNDS[name]
    for value in (bound.least, bound.most, bound.least - 1, bound.most + 1):
        whole = int(value)
        for given_value in {whole, value, str(whole)} | {float("nan"), 10**400}:
            fuzzed.post("/translate", {"text": "tea", "parameters": {name: given_value}})


LARGEST: dict[str, dict[str, Any]] = {
    "bad words": {"bad_words_ids": [[280] * MAX_RUN_LEN] * 1000},
    "10,000 bad words": {"bad_words_ids": [[number % 280] for number in range(10_000)]},
    "biases": {"sequence_bias": [[[number % 280, number // 280], 1.5] for number in range(1000)]},
    "suppressed": {"suppress_tokens": [5] * 10_000, "begin_suppress_tokens": [5] * 10_000},
    "ends": {"eos_token_id": list(range(64)), "num_beams": 4, "num_return_sequences": 4},
    "strings": {"stop_strings": ["\U0010ffff" * 64] * 8},
}


@pytest.mark.parametrize("parameters", LARGEST.values(), ids=LARGEST)
def test_the_largest_parameters_are_answered(parameters: dict[str, Any], fuzzed: Fuzzed) -> None:
    fuzzed.post("/translate", {"text": "tea", "parameters": parameters})


@pytest.mark.parametrize("num_words", [1, 12, 1000])
def test_a_forced_prefix_of_any_length_is_answered(num_words: int, fuzzed: Fuzzed) -> None:
    answer = fuzzed.post("/translate", {"text": "tea", "target_prefix": "ein " * num_words})

    assert answer.status_code == (200 if num_words == 1 else 422)  # 12 target tokens at most


def test_all_of_unicode_is_answered(fuzzed: Fuzzed) -> None:
    surrogates = range(0xD800, 0xE000)
    characters = [chr(code) for code in range(0x110000) if code not in surrogates]
    for start in range(0, len(characters), 0x8000):
        text = "".join(characters[start : start + 0x8000])
        answer = fuzzed.post("/translate", {"text": text, "overflow": "truncate"})
        assert answer.status_code == 200
    answer = fuzzed.post("/translate", {"text": "".join(map(chr, surrogates))})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("text", "status"), [("The coffee is cold. " * 50_000, 200), ("x" * 1_000_001, 422)]
)
def test_a_text_of_a_megabyte_is_cut_or_refused(text: str, status: int, fuzzed: Fuzzed) -> None:
    answer = fuzzed.post("/translate", {"text": text, "overflow": "truncate"})

    assert answer.status_code == status


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"nul", b'"' * 100_000, b"\xff\xfe{}", b"{" * 200, b'{"text":' + b"9" * 5000],
)
def test_bytes_that_are_no_body_are_refused(content: bytes, fuzzed: Fuzzed) -> None:
    assert fuzzed.post_bytes("/translate", content).status_code in (400, 422)


@pytest.mark.parametrize("field", ["text", "target_prefix"])
@pytest.mark.parametrize("odd", ["\u2003\u2003", "\ud800", "\u0378\u0379", "\U0010ffff"])
def test_no_part_of_a_text_stands_in_an_error(field: str, odd: str, fuzzed: Fuzzed) -> None:
    for text in (odd, f"Zanzibar{odd}", "Zanzibar " * 1000):
        answer = fuzzed.post("/translate", {"text": "tea", field: text})
        if answer.status_code != 200:
            assert "Zanzi" not in answer.text
            assert ascii(odd).strip("'") not in answer.text


def test_the_page_shows_the_last_long_run() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))

    assert shown() == table_of(result)
    assert sum(stage["inputs"] for stage in result.values()) >= 100_000
    assert not [finding for stage in result.values() for finding in stage["findings"]]
