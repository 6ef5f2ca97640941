"""Trains one checkpoint: `python -m training.train translate --data DIR --work DIR --minutes 90`.

Interrupting is safe: the run folder holds everything, and the same command goes on from there.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from training.checkpoint import generation_config
from training.data import EpochPlanner, Example, Pair, encode_pairs, read_pairs, spread
from training.devices import resolve_device
from training.evaluate import decode
from training.model import build_model
from training.scoring import SCORING, shown
from training.tasks import TASKS, Preset, Task
from training.tokenizer import train_tokenizer
from training.trainer import Progress, Trainer
from training.warm_start import PretrainedEncoder, warm_start

logger = logging.getLogger("training")

TOKENIZER_FOLDER = "tokenizer"


@dataclass(frozen=True)
class Budget:
    """How long to train: by the clock or by steps. Learning rates fall to zero at its end."""

    minutes: float | None
    steps: int | None

    def spent(self, progress: Progress) -> float:
        """Share of the budget used so far, at most 1."""
        if self.minutes is not None:
            return min(1.0, progress.elapsed_s / (60 * self.minutes))
        assert self.steps is not None, "the command line requires one of the two"
        return min(1.0, progress.step / self.steps)


@dataclass(frozen=True)
class Pace:
    """Seconds between the things a run does besides training."""

    log_s: float = 30.0
    save_s: float = 300.0
    dev_s: float = 900.0


class _Periodic:
    """Tells when a period has passed since it last did."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last = time.monotonic()

    def take(self) -> bool:
        """True once per period; the next one starts then."""
        if (now := time.monotonic()) - self._last < self._period_s:
            return False
        self._last = now
        return True


@dataclass
class _Stop:
    """Whether SIGINT or SIGTERM came; the loop saves and leaves at the next step."""

    requested: bool = False

    def request(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True


@contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    """Turns the two signals into a request to stop, for as long as the context lasts."""
    stop = _Stop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Log:
    """Loss and pace since the last line."""

    progress: Progress
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.losses.clear()
        self._from_s, self._from_tokens = self.progress.elapsed_s, self.progress.target_tokens

    def write(self, spent: float) -> None:
        """Log one line and start the next."""
        seconds = self.progress.elapsed_s - self._from_s
        logger.info(
            "step %d, epoch %.2f, budget %.1f %%, loss %.3f, %.0f target tokens/s",
            self.progress.step,
            self.progress.epochs_seen,
            100 * spent,
            sum(self.losses) / len(self.losses),
            (self.progress.target_tokens - self._from_tokens) / max(seconds, 1e-9),
        )
        self._start()


def _upcoming(planner: EpochPlanner, progress: Progress) -> Iterator[list[Example]]:
    """The batches from where the run stands, epoch after epoch without end."""
    while True:
        batches = planner.batches(progress.epoch)
        for examples in batches[progress.batches_done :]:
            progress.epoch_share = progress.batches_done / len(batches)
            yield examples
        progress.epoch += 1
        progress.batches_done, progress.epoch_share = 0, 0.0


def run(
    trainer: Trainer,
    planner: EpochPlanner,
    budget: Budget,
    pace: Pace,
    evaluate: Callable[[Any], str],
) -> None:
    """Train until the budget is spent or a signal asks to stop; saves before it returns."""
    progress = trainer.progress
    started = time.monotonic() - progress.elapsed_s
    log = _Log(progress)
    log_due, save_due, dev_due = map(_Periodic, (pace.log_s, pace.save_s, pace.dev_s))
    bar = tqdm(total=100.0, unit="%", disable=not sys.stderr.isatty(), desc="budget")
    with bar, _stop_on_signals() as stop:
        for examples in _upcoming(planner, progress):
            progress.elapsed_s = time.monotonic() - started
            spent = budget.spent(progress)
            bar.update(100 * spent - bar.n)
            if spent >= 1.0 or stop.requested:
                break
            log.losses.append(trainer.step(examples, spent=spent))
            if log_due.take():
                log.write(spent)
            if save_due.take():
                trainer.save()
            if dev_due.take():
                logger.info("dev sample: %s", evaluate(trainer.averaged.module))
    trainer.save()
    logger.info(
        "%s at step %d, epoch %.2f, after %.1f min",
        "interrupted" if stop.requested else "finished",
        progress.step,
        progress.epochs_seen,
        progress.elapsed_s / 60,
    )


@dataclass(frozen=True)
class DevEvaluation:
    """Scores a model on a few dev pairs with the task's own beam search."""

    task: Task
    tokenizer: PreTrainedTokenizerFast
    pairs: list[Pair]

    def __call__(self, model: Any) -> str:
        """The scores on one line."""
        outputs = decode(
            model,
            self.tokenizer,
            [pair.source for pair in self.pairs],
            generation_config(self.task, length_penalty=1.0),
        )
        references = [pair.target for pair in self.pairs]
        return shown(SCORING[self.task.name].score(outputs, references))


def load_tokenizer(
    task: Task, preset: Preset, pairs: list[Pair], folder: Path
) -> PreTrainedTokenizerFast:
    """The run's tokenizer, trained on both sides of the pairs at the first start."""
    path = folder / TOKENIZER_FOLDER
    if not path.exists():
        texts = (text for pair in pairs for text in (pair.source, pair.target))
        train_tokenizer(
            texts, vocab=preset.size.vocab, max_source_len=preset.size.max_source_len
        ).save_pretrained(path)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(path)
    return tokenizer


def start_trainer(
    task: Task,
    preset: Preset,
    tokenizer: PreTrainedTokenizerFast,
    *,
    device: torch.device,
    folder: Path,
) -> Trainer:
    """A trainer at its first step, warm-started where the task says so."""
    model = build_model(preset.size, dropout=preset.dropout)
    warm_names = (
        warm_start(model, tokenizer, PretrainedEncoder.installed()) if task.warm_start else set()
    )
    return Trainer(preset, model, warm_names=warm_names, device=device, folder=folder)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .tsv.gz files")
    parser.add_argument("--work", type=Path, required=True, help="folder of runs, outside git")
    parser.add_argument("--preset", choices=("tiny", "small", "base"), default="small")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="train for this long on the wall clock")
    budget.add_argument("--steps", type=int, help="train for this many steps")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--dev-minutes", type=float, default=15.0, help="between dev samples")
    parser.add_argument("--dev-pairs", type=int, default=100, help="size of a dev sample")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train or resume the run that the command line names."""
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    task = TASKS[arguments.task]
    preset = task.presets[arguments.preset]
    folder = arguments.work / f"{task.checkpoint}.{arguments.preset}"
    folder.mkdir(parents=True, exist_ok=True)

    pairs = read_pairs(arguments.data / task.train_file)
    tokenizer = load_tokenizer(task, preset, pairs, folder)
    planner = EpochPlanner(
        examples=encode_pairs(tokenizer, pairs),
        max_source_len=preset.size.max_source_len,
        max_target_len=preset.size.max_target_len,
        batch_tokens=preset.batch_tokens,
        join=task.join,
        crop=task.crop,
        repeated_rows=task.repeated_rows,
        seed=arguments.seed,
    )
    trainer = start_trainer(
        task, preset, tokenizer, device=resolve_device(arguments.device), folder=folder
    )
    resumed = trainer.resume()
    logger.info("%s %s, %d pairs", "resuming" if resumed else "starting", folder.name, len(pairs))
    dev_pairs = spread(read_pairs(arguments.data / task.dev_file), arguments.dev_pairs)
    with logging_redirect_tqdm():
        run(
            trainer,
            planner,
            Budget(arguments.minutes, arguments.steps),
            Pace(dev_s=60 * arguments.dev_minutes),
            DevEvaluation(task, tokenizer, dev_pairs),
        )


if __name__ == "__main__":
    main()
