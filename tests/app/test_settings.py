import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from app.cli import main
from app.parameter_bounds import LOWERABLE
from app.schemas import Parameters
from app.settings import Settings, UnknownVariableError, default_text, variable
from model_core.bounds import BOUNDS

ANY = BOUNDS["temperature"]
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


def test_workers_are_a_number_or_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().workers == "auto"
    assert Settings(workers="auto").workers == "auto"
    monkeypatch.setenv("TANDEM_WORKERS", "3")
    assert Settings.from_environment().workers == 3
    assert Settings.from_environment(workers="0").workers == 0


@pytest.mark.parametrize("value", ["-1", "many", "", "1.5", "Auto"])
def test_a_wrong_number_of_workers_is_one_error_that_says_what_was_expected(value: str) -> None:
    result = CliRunner().invoke(main, ["serve", "--workers", value])

    expected = "expected a number of processes, 0 or more, or auto"
    assert result.exit_code == 2
    assert result.output.endswith(f"Error: TANDEM_WORKERS is {value!r}: {expected}\n")


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
        ({"workers": True}, "expected a number of processes, 0 or more, or auto"),
    ],
)
def test_values_out_of_their_bounds_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**values)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ("top_k", "top_k is without a value: expected top_k=NUMBER, a number from 0 to 1000000"),
        ("top_k=", "top_k is '': expected top_k=NUMBER"),
        (
            "temperature=abc",
            "temperature is 'abc': expected temperature=NUMBER, a number from 0.001",
        ),
        ("top_p=2", "top_p is '2': expected top_p=NUMBER, a number from 0 to 1"),
        ("top_p=nan", "top_p is 'nan': expected"),
        ("topk=5", "'topk' is no parameter that can be bounded: did you mean top_k?"),
        ("=5", "'' is no parameter that can be bounded: expected one of num_return_sequences, "),
        ("top_k=5,top_k=6", "top_k is named twice"),
        ("num_beams=4", "num_beams cannot be bounded here: expected TANDEM_MAX_NUM_BEAMS for it"),
        ("min_length=4", "min_length cannot be bounded here: expected TANDEM_MAX_TARGET_TOKENS"),
    ],
)
def test_a_wrong_bound_is_refused_with_its_parameter_its_value_and_what_was_expected(
    bounds: str, message: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)) as caught:
        Settings(parameter_bounds=bounds)

    assert len(caught.value.errors()) == 1


def test_only_parameters_of_requests_are_offered_for_bounds() -> None:
    assert set(LOWERABLE) <= Parameters.model_fields.keys()
    assert not {"num_beams", "max_length", "target_prefix_ids"} & set(LOWERABLE)


def test_the_readme_lists_exactly_the_settings() -> None:
    row = re.compile(r"^\| `(TANDEM_\w+)` \| `(.*?)` \| (.*) \|$", re.MULTILINE)
    rows = row.findall(README.read_text())

    assert rows == [
        (variable(field), default_text(field), info.description)
        for field, info in Settings.model_fields.items()
    ]
