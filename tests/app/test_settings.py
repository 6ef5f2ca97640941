import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings, UnknownVariableError, default_text, variable

README = Path(__file__).parents[2] / "README.md"


def test_a_flag_goes_before_a_variable_and_a_variable_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TANDEM_PORT", "9000")
    monkeypatch.setenv("TANDEM_HOST", "::1")

    settings = Settings.from_environment(port="9001")

    assert (settings.host, settings.port, settings.dtype) == ("::1", 9001, "auto")


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [
        ("TANDEM_TRANSLATE_MODELS", "TANDEM_TRANSLATE_MODEL"),
        ("TANDEM_MAX_BEAMS", "TANDEM_MAX_NUM_BEAMS"),
        ("tandem_prot", "TANDEM_PORT"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(
    misspelt: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(misspelt, "1")

    with pytest.raises(UnknownVariableError, match=f"{misspelt} .*did you mean {nearest}?"):
        Settings.from_environment()


def test_checkpoints_are_separated_by_commas() -> None:
    settings = Settings(translate_model=" Helsinki-NLP/opus-mt-en-de , /models/de-en,")

    assert settings.translate_model == ("Helsinki-NLP/opus-mt-en-de", "/models/de-en")


def test_none_switches_an_endpoint_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_SUMMARIZE_MODEL", "none")

    assert Settings.from_environment().summarize_model == ()


def test_bounds_are_named_with_their_parameters() -> None:
    settings = Settings(parameter_bounds="top_k=100, stop_strings=2")

    assert settings.parameter_bounds == {"top_k": 100, "stop_strings": 2}
    assert Settings(parameter_bounds="none").parameter_bounds == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"translate_model": "none", "summarize_model": "none"}, "nothing to serve"),
        ({"translate_model": "a,a"}, "named twice"),
        ({"summarize_model": "a,b"}, "at most 1"),
        ({"default_timeout_s": 20, "max_timeout_s": 10}, "expected at most max_timeout_s"),
        ({"device": "tpu"}, "match pattern"),
        ({"dtype": "int4"}, "float32"),
        ({"max_running_requests": 0}, "greater than or equal to 1"),
        ({"parameter_bounds": "top_q=1"}, "top_q is no bounded parameter"),
        ({"parameter_bounds": "top_p=2"}, "top_p is 2: expected a bound from 0 to 1"),
        ({"parameter_bounds": "top_k=many"}, "valid number"),
        ({"parameter_bounds": "top_k"}, "valid number"),
        ({"parameter_bounds": "num_beams=4"}, "bounded by max_num_beams"),
    ],
)
def test_values_out_of_their_bounds_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**values)  # type: ignore[arg-type]  # wrong on purpose


def test_the_readme_lists_exactly_the_settings() -> None:
    row = re.compile(r"^\| `(TANDEM_\w+)` \| `(.*?)` \| (.*) \|$", re.MULTILINE)
    rows = row.findall(README.read_text())

    assert rows == [
        (variable(field), default_text(field), info.description)
        for field, info in Settings.model_fields.items()
    ]
