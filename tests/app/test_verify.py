"""`tandem verify`: its verdict, and what it prints."""

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from app.cli import main
from app.verification.sample_texts import SAMPLE_TEXTS
from model_core.decoder import Decoder
from model_core.self_check import SelfCheck
from model_core.verification.run import Timed, verify
from tests import tiny
from tests.tiny.multilingual import change_json

SHORT = ("--num-sources", "8", "--max-new-tokens", "6", "--max-beams", "3")
TEXTS = ["Where is the train station?", "She reads a book every evening.", "It rains."]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.logs.configure_logging", lambda: None)


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_tiny_checkpoint("bart", tmp_path_factory.mktemp("bart"))


@pytest.fixture
def _sabotaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lean decoder that is wrong, and a self-check that does not see it."""
    step = Decoder.step

    def wrong(self: Decoder, *arguments: Any) -> torch.Tensor:
        return step(self, *arguments).roll(1, dims=-1)

    monkeypatch.setattr(Decoder, "step", wrong)
    monkeypatch.setattr(
        "model_core.choose_runner.check_decoder", lambda *_, **__: SelfCheck(0.0, 1.0)
    )


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def counts(result: Result) -> list[int]:
    """Requests, identical, near-ties excused, different."""
    lines = result.stdout.splitlines()
    heading = next(at for at, line in enumerate(lines) if "identical" in line)
    return [int(number) for number in lines[heading + 1].split()]


def last_line(result: Result) -> str:
    return result.stdout.splitlines()[-1]


def test_an_exact_checkpoint_has_status_0_and_a_table(bart: Path) -> None:
    result = run(bart, *SHORT)

    assert result.exit_code == 0, result.output
    assert counts(result) == [8, 8, 0, 0]
    assert "the lean decoder, family bart" in result.stdout
    assert "float32 on cpu" in result.stdout
    assert "sample sentences" in result.stdout
    assert "mismatch rate:              0.0000" in result.stdout
    assert "largest deviation of score" in result.stdout
    assert ", bound 1e-04\n" in result.stdout
    for line in ("generate(), one by one", "engine, all at once", "x the speed of generate()"):
        assert line in result.stdout
    assert last_line(result) == "PASSED: 0 of 8 differ (allowed: 0 %)"


@pytest.mark.usefixtures("_sabotaged")
def test_a_wrong_decoder_has_status_1_and_its_first_differences_are_shown(
    bart: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(TEXTS), encoding="utf-8")

    result = run(bart, *SHORT, "--texts", texts)

    assert result.exit_code == 1
    assert counts(result) == [3, 0, 0, 3]
    assert "mismatch rate:              1.0000" in result.stdout
    assert "the first 3 texts of the file" in result.stdout
    for text in TEXTS:
        assert f"source:     {text}" in result.stdout
    assert "num_beams=" in result.stdout
    assert re.search(r"hypothesis 1, token \d: \d+ '.+' instead of \d+ '.+'", result.stdout)
    assert last_line(result) == (
        "FAILED: 3 of 3 differ, 100 % (allowed with --max-mismatch-rate: 0 %)"
    )


@pytest.mark.usefixtures("_sabotaged")
def test_differences_up_to_the_mismatch_rate_are_let_pass(bart: Path) -> None:
    passed = run(bart, *SHORT, "--max-mismatch-rate", "1")
    assert passed.exit_code == 0
    assert last_line(passed) == "PASSED: 8 of 8 differ, 100 % (allowed: 100 %)"
    assert run(bart, *SHORT, "--max-mismatch-rate", "0.5").exit_code == 1


def test_half_precision_is_compared_with_generate_in_half_precision(bart: Path) -> None:
    result = run(bart, *SHORT, "--dtype", "bfloat16", "--max-mismatch-rate", "1")

    assert result.exit_code == 0, result.output
    assert "bfloat16 on cpu" in result.stdout
    assert ", no bound in bfloat16\n" in result.stdout
    assert "Differences are expected in bfloat16" in result.stdout


def test_int8_is_compared_with_generate_in_float32(tmp_path: Path) -> None:
    marian = tiny.build_tiny_checkpoint("marian", tmp_path / "marian")
    result = run(marian, *SHORT, "--dtype", "int8", "--max-mismatch-rate", "1")

    assert result.exit_code == 0, result.output
    assert "int8 on cpu" in result.stdout
    assert ", no bound in int8\n" in result.stdout
    assert "Differences are expected in int8: the reference is generate() in float32" in (
        result.stdout
    )


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (2.0, "the engine has 2.00x the speed of generate() one by one"),
        (0.5, "the engine is slower, with 0.50x the speed of generate() one by one"),
    ],
)
def test_speeds_are_compared_in_words(
    seconds: float, line: str, bart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "app.verification.command.verify",
        lambda *given: replace(verify(*given), alone=Timed(seconds, 9), together=Timed(1.0, 9)),
    )

    assert line in run(bart, *SHORT).stdout.splitlines()


def test_texts_that_were_cut_are_counted(bart: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(f"{TEXTS[0]}\n{' '.join(TEXTS * 30)}\n", encoding="utf-8")

    result = run(bart, *SHORT, "--texts", texts)

    assert f"texts cut:  1 of 2, to {tiny.MAX_POSITIONS} tokens\n" in result.stdout
    assert "texts cut:  none\n" in run(bart, *SHORT).stdout


def test_sample_sentences_are_in_the_source_language_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.build_tiny_checkpoint("bart", tmp_path)
    change_json(folder / "config.json", tandem={"source_lang": "eng", "target_lang": "de"})

    result = run(folder, *SHORT)

    count, of = len(SAMPLE_TEXTS["en"]), sum(map(len, SAMPLE_TEXTS.values()))
    expected = f"drawn from {count} of {of} sample sentences, those in eng, the source language\n"
    assert expected in result.stdout

    change_json(folder / "config.json", tandem={"source_lang": "fi", "target_lang": "de"})
    other = run(folder, *SHORT)
    assert "those that the tokenizer knows (too few are in fi)" in other.stdout


def test_every_language_has_enough_sample_sentences() -> None:
    assert min(map(len, SAMPLE_TEXTS.values())) >= 4


def test_a_checkpoint_without_a_lean_decoder_is_verified_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = next(iter(tiny.FALLBACK_ARCHITECTURES))
    result = run(tiny.build_tiny_checkpoint(name, tmp_path), *SHORT)

    assert result.exit_code == 0, result.output
    reason = "its architecture has no lean decoder"
    assert f"served by:  generate() itself, slower: {reason}\n" in result.stdout
    assert reason in caplog.text


def test_random_tokens_stand_in_where_the_tokenizer_knows_no_sample(
    bart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.verification.requests.SAMPLE_TEXTS", {})

    result = run(bart, *SHORT)

    assert result.exit_code == 0, result.output
    assert "random tokens" in result.stdout
    assert counts(result) == [8, 8, 0, 0]


def test_summaries_are_verified_with_longer_samples(bart: Path) -> None:
    result = run(bart, "--task", "summarize", *SHORT, "--num-sources", "40")

    assert counts(result)[0] == 40
    assert "task:       summarize (as --task says)\n" in result.stdout


def test_a_checkpoint_made_for_summaries_is_verified_as_such(tmp_path: Path, bart: Path) -> None:
    folder = tiny.build_tiny_checkpoint("bart", tmp_path)
    change_json(folder / "config.json", task_specific_params={"summarization": {"num_beams": 2}})

    made_for_it = run(folder, *SHORT)
    shipped = run("summarize-en", *SHORT, "--num-sources", "2")

    assert "task:       summarize (as the checkpoint's own defaults say" in made_for_it.stdout
    assert "task:       summarize (shipped for it" in shipped.stdout
    assert "task:       translate (see --task)\n" in run(bart, *SHORT).stdout


def test_a_checkpoint_of_many_languages_needs_them_named(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("nllb", tmp_path)

    result = run(folder, *SHORT)

    assert result.exit_code == 2
    assert "source_lang is missing: expected one of " in result.output
    assert "Traceback" not in result.output
    for language in tiny.NLLB_LANGUAGES:
        assert language in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nowhere"], "./nowhere: expected "),
        (["BART", "--max-new-tokens", "100000"], "max_new_tokens is 100000: expected at most"),
        (["BART", "--device", "abacus"], "TANDEM_DEVICE is 'abacus'"),
        (["BART", "--num-sources", "0"], "num-sources"),
        (["BART", "--texts", "./none.txt"], "none.txt"),
        (["a, b"], "CHECKPOINT is 'a, b': expected one checkpoint, found 2"),
        (["none"], "CHECKPOINT is 'none': expected one checkpoint, found 0"),
    ],
)
def test_what_cannot_be_verified_has_status_2(
    arguments: list[str], message: str, bart: Path
) -> None:
    result = run(*(str(bart) if each == "BART" else each for each in arguments))

    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_file_without_texts_has_status_2(bart: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n", encoding="utf-8")

    result = run(bart, "--texts", empty)

    assert result.exit_code == 2
    assert "texts is 'empty': expected a file with a text on some line" in result.output


def test_a_file_that_is_not_utf_8_has_status_2_and_names_the_line(
    bart: Path, tmp_path: Path
) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("tea\ncafé\n".encode("latin-1"))

    result = run(bart, "--texts", latin)

    assert result.exit_code == 2
    assert result.output == "Error: --texts, line 2: expected UTF-8, found the byte 0xe9\n"


def test_settings_of_the_environment_that_are_wrong_have_status_2(
    bart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_PROT", "80")

    result = run(bart)

    assert result.exit_code == 2
    assert "TANDEM_PROT" in result.output


def test_what_nobody_expects_has_status_2(bart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("nobody expects this")

    monkeypatch.setattr("model_core.verification.run.generate_alone", broken)

    result = run(bart, *SHORT)

    assert result.exit_code == 2
    assert result.stderr.endswith("Error: unexpected KeyError: 'nobody expects this'\n")


def test_an_interrupt_ends_the_engine_and_says_so(
    bart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model_core.verification.run.generate_alone", interrupted)

    result = run(bart, *SHORT)

    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted\n")
    assert "tandem-engine" not in [thread.name for thread in threading.enumerate()]
