from pathlib import Path

import torch

from training.data import Example
from training.model import build_model
from training.tasks import Preset
from training.trainer import Trainer

BATCHES = [
    [Example([10 + step, 11, 12], [20, 21 + step]), Example([13], [22])] for step in range(4)
]


def make_trainer(preset: Preset, folder: Path) -> Trainer:
    torch.manual_seed(0)
    return Trainer(
        preset,
        build_model(preset.size, dropout=preset.dropout),
        warm_names=set(),
        device=torch.device("cpu"),
        folder=folder,
    )


def test_a_resumed_run_is_the_uninterrupted_run(preset: Preset, tmp_path: Path) -> None:
    whole = make_trainer(preset, tmp_path)
    for number, examples in enumerate(BATCHES):
        whole.step(examples, spent=number / 8)
        if number == 1:
            whole.save()

    resumed = make_trainer(preset, tmp_path)
    assert resumed.resume()
    for number, examples in enumerate(BATCHES[2:], start=2):
        resumed.step(examples, spent=number / 8)

    assert resumed.progress == whole.progress
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict())
    torch.testing.assert_close(resumed.averaged.state_dict(), whole.averaged.state_dict())


def test_there_is_nothing_to_resume_in_an_empty_folder(preset: Preset, tmp_path: Path) -> None:
    assert not make_trainer(preset, tmp_path).resume()


def test_training_lowers_the_loss(preset: Preset, tmp_path: Path) -> None:
    trainer = make_trainer(preset, tmp_path)
    losses = [trainer.step(BATCHES[0], spent=0.0) for _ in range(30)]
    assert losses[-1] < losses[0] / 2


def test_the_learning_rate_warms_up_and_falls_to_zero(preset: Preset, tmp_path: Path) -> None:
    trainer = make_trainer(preset, tmp_path)
    rates = []
    for spent in (0.0, 0.25, 0.5, 1.0):
        trainer.step(BATCHES[0], spent=spent)
        rates.append(trainer.optimizer.param_groups[0]["lr"] / preset.peak_lr)
    assert rates == [0.5, 0.75, 0.5, 0.0]
