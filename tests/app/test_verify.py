"""`tandem verify`: its verdict, and what it prints."""

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from app.cli import main
from model_core.decoder import Decoder
from model_core.self_check import SelfCheck
from tests import tiny

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


def test_an_exact_checkpoint_has_status_0_and_a_table(bart: Path) -> None:
    result = run(bart, *SHORT)

    assert result.exit_code == 0, result.output
    assert counts(result) == [8, 8, 0, 0]
    assert "the lean decoder, family bart" in result.stdout
    assert "float32 on cpu" in result.stdout
    assert "sample sentences" in result.stdout
    assert "mismatch rate:              0.0000" in result.stdout
    for line in ("generate(), one by one", "engine, all at once", "engine is faster by"):
        assert line in result.stdout


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


@pytest.mark.usefixtures("_sabotaged")
def test_differences_up_to_the_mismatch_rate_are_let_pass(bart: Path) -> None:
    assert run(bart, *SHORT, "--max-mismatch-rate", "1").exit_code == 0
    assert run(bart, *SHORT, "--max-mismatch-rate", "0.5").exit_code == 1


def test_half_precision_is_compared_with_generate_in_half_precision(bart: Path) -> None:
    result = run(bart, *SHORT, "--dtype", "bfloat16", "--max-mismatch-rate", "1")

    assert result.exit_code == 0, result.output
    assert "bfloat16 on cpu" in result.stdout
    assert "bound" not in result.stdout


def test_a_checkpoint_without_a_lean_decoder_is_verified_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = next(iter(tiny.FALLBACK_ARCHITECTURES))
    result = run(tiny.build_tiny_checkpoint(name, tmp_path), *SHORT)

    assert result.exit_code == 0, result.output
    assert "served by:  generate() itself" in result.stdout
    assert "its architecture has no lean decoder" in caplog.text


def test_random_tokens_stand_in_where_the_tokenizer_knows_no_sample(
    bart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.verification.requests.SAMPLE_TEXTS", ())

    result = run(bart, *SHORT)

    assert result.exit_code == 0, result.output
    assert "random tokens" in result.stdout
    assert counts(result) == [8, 8, 0, 0]


def test_summaries_are_verified_with_longer_samples(bart: Path) -> None:
    result = run(bart, "--task", "summarize", *SHORT, "--num-sources", "40")

    assert counts(result)[0] == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nowhere"], "./nowhere: expected "),
        (["BART", "--max-new-tokens", "100000"], "max_new_tokens is 100000: expected at most"),
        (["BART", "--device", "abacus"], "TANDEM_DEVICE is 'abacus'"),
        (["BART", "--num-sources", "0"], "num-sources"),
        (["BART", "--texts", "./none.txt"], "none.txt"),
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
