import pytest
from click.testing import CliRunner

from app.cli import main
from app.settings import Settings, variable
from tests.app.fakes import MAX_SOURCE_LEN, Backwards


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setattr(
        "app.opening.open_service", lambda settings, *, is_partial: Backwards(settings).service
    )
    monkeypatch.setattr("app.logs.configure_logging", lambda: None)
    return CliRunner()


def test_translate_prints_the_translation_of_its_argument(run: CliRunner) -> None:
    result = run.invoke(main, ["translate", "--translate-model", "en-de", "tea"])

    assert (result.exit_code, result.output) == (0, "aet\n")


@pytest.mark.parametrize("max_texts", [1, 7, 1000])
def test_translate_reads_lines_and_keeps_their_order(max_texts: int, run: CliRunner) -> None:
    lines = [f"line {number}" for number in range(150)]
    variables = {"TANDEM_MAX_TEXTS_PER_REQUEST": str(max_texts)}

    result = run.invoke(main, ["translate", "-"], input="\n".join(lines), env=variables)

    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [line[::-1] for line in lines]


def test_translate_keeps_blank_lines_so_that_output_and_input_align(run: CliRunner) -> None:
    result = run.invoke(main, ["translate", "-"], input="\none\n \t\n\ntwo\n\n")

    assert (result.exit_code, result.output) == (0, "\neno\n\n\nowt\n\n")


@pytest.mark.parametrize("command", ["translate", "summarize"])
@pytest.mark.parametrize("text", ["", " \n"])
def test_a_blank_argument_is_refused(command: str, text: str, run: CliRunner) -> None:
    result = run.invoke(main, [command, text])

    assert result.exit_code == 2
    assert f"TEXT is {text!r}: expected at least one character" in result.stderr


@pytest.mark.parametrize("command", ["translate", "summarize"])
def test_a_line_that_is_not_utf_8_is_named(command: str, run: CliRunner) -> None:
    result = run.invoke(main, [command, "-"], input=b"tea\n\nsi\xe8cle\n")

    assert result.exit_code == 1
    assert result.stderr == "Error: line 3: expected UTF-8, found the byte 0xe8\n"


def test_summarize_reads_all_of_standard_input_as_one_text(run: CliRunner) -> None:
    result = run.invoke(main, ["summarize", "-"], input="one\ntwo")

    assert (result.exit_code, result.output) == (0, "owt\neno\n")


def test_a_text_that_is_too_long_is_one_line_of_error(run: CliRunner) -> None:
    result = run.invoke(main, ["translate", "x" * (MAX_SOURCE_LEN + 1)])

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert str(MAX_SOURCE_LEN) in result.output


def test_truncate_cuts_what_is_too_long(run: CliRunner) -> None:
    result = run.invoke(main, ["translate", "--truncate", "x" * 2 * MAX_SOURCE_LEN])

    assert (result.exit_code, result.stdout) == (0, "x" * MAX_SOURCE_LEN + "\n")


def test_a_line_that_is_too_long_is_named_by_its_number(run: CliRunner) -> None:
    lines = ["tea", "", *["tea"] * 70, "x" * (MAX_SOURCE_LEN + 1)]

    result = run.invoke(main, ["translate", "-"], input="\n".join(lines))

    assert result.exit_code == 1
    assert f"Error: line {len(lines)}: " in result.output


def test_what_was_cut_is_said_on_standard_error(run: CliRunner) -> None:
    text = "x" * 2 * MAX_SOURCE_LEN

    result = run.invoke(main, ["translate", "--truncate", "-"], input=f"tea\n{text}")

    assert result.stdout == "aet\n" + "x" * MAX_SOURCE_LEN + "\n"
    assert result.stderr == f"line 2 was cut after {MAX_SOURCE_LEN} tokens\n"


def test_a_language_pair_chooses_among_checkpoints(run: CliRunner) -> None:
    languages = ["--source-lang", "de", "--target-lang", "en"]

    result = run.invoke(main, ["translate", "--translate-model", "en-de,de-en", *languages, "tee"])

    assert (result.exit_code, result.output) == (0, "eet\n")


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--port", "99999"], {}, "TANDEM_PORT is '99999'"),
        ([], {"TANDEM_PORT": "http"}, "TANDEM_PORT is 'http'"),
        ([], {"TANDEM_PROT": "80"}, "did you mean TANDEM_PORT?"),
        (["--translate-model", "none", "--summarize-model", "none"], {}, "nothing to serve"),
        (["--parameter-bounds", "top_k"], {}, "is 'top_k': top_k is without a value: expected"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    arguments: list[str], variables: dict[str, str], message: str, run: CliRunner
) -> None:
    result = run.invoke(main, ["serve", *arguments], env=variables)

    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_checkpoint_that_cannot_be_loaded_is_one_line_of_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It closes the handlers that libraries brought, and with them the streams of the test run.
    monkeypatch.setattr("app.logs.configure_logging", lambda: None)
    result = CliRunner().invoke(main, ["translate", "--translate-model", "./nowhere", "tea"])

    assert result.exit_code == 1
    assert result.output.startswith("Error: ./nowhere: expected ")


def test_serve_has_a_flag_for_every_setting_but_the_keys() -> None:
    text = CliRunner().invoke(main, ["serve", "--help"], terminal_width=200).output

    for field in Settings.model_fields.keys() - {"api_keys"}:
        assert f"--{field.replace('_', '-')} " in text
        assert variable(field) in text
    assert "--api-keys " not in text
