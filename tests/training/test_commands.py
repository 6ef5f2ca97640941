import gzip
import json
import signal
from pathlib import Path

import pytest

from training import evaluate, export, train
from training.tasks import TRANSLATE

from .conftest import TEXTS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = "".join(f"{TEXTS[0]} {row}\t{TEXTS[1]} {row}\n" for row in range(60))
    for name in (TRANSLATE.train_file, TRANSLATE.dev_file):
        (tmp_path / name).write_bytes(gzip.compress(lines.encode()))
    return tmp_path


def test_a_run_is_trained_resumed_exported_and_evaluated(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    common = ["translate", "--data", str(data), "--device", "cpu"]
    run = [*common, "--work", str(tmp_path / "runs"), "--preset", "tiny"]
    output = tmp_path / "checkpoint"

    train.main([*run, "--steps", "2"])
    train.main([*run, "--steps", "3"])
    export.main([*run, "--output", str(output), "--dev-pairs", "4", "--tuning-pairs", "2"])
    evaluate.main([*common, "--checkpoint", str(output), "--pairs", "2"])

    assert "starting translate-en-de.tiny" in caplog.text
    assert "finished at step 3" in caplog.text
    assert "checkpoint: BLEU" in caplog.text
    generation = json.loads((output / "generation_config.json").read_text())
    assert generation["length_penalty"] in TRANSLATE.generation.length_penalties
    assert "1.5 epochs in 3 steps" in (output / "README.md").read_text()


def test_a_run_leaves_the_signal_handlers_as_they_were(data: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    work = str(tmp_path / "runs")
    train.main(
        ["translate", "--data", str(data), "--work", work, "--preset", "tiny", "--steps", "1"]
    )
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
