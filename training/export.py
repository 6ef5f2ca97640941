"""Exports a run: `python -m training.export translate --data DIR --work DIR --output FOLDER`.

Writes the averaged weights in float16, reads the folder back as any user would, chooses the length
penalty on dev, and puts the measured figures into the model card.
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import EncoderDecoderModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from training.card import Figures, LongInputs, TrainingFacts, model_card
from training.checkpoint import generation_config, load_checkpoint, save_checkpoint
from training.data import Pair, read_pairs, spread
from training.devices import resolve_device
from training.evaluate import decode
from training.model import build_model
from training.scoring import SCORING, Scores, shown
from training.tasks import TASKS, Preset, Task
from training.train import TOKENIZER_FOLDER
from training.trainer import STATE_FILE, Progress

logger = logging.getLogger(__name__)

_MAX_WEIGHTS_BYTES = 40_000_000
_NUM_EXAMPLES = 5
_CHECKED_ROWS = 8
_LONG_INPUT_WORDS = (15, 30, 60)
_NEUTRAL_LENGTH_PENALTY = 1.0


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run, read from its folder."""

    model: EncoderDecoderModel
    tokenizer: PreTrainedTokenizerFast
    progress: Progress


def load_run(preset: Preset, folder: Path) -> Run:
    """The averaged weights of the run and its tokenizer, on the CPU."""
    state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    averaged = {
        name.removeprefix("module."): values
        for name, values in state["averaged"].items()
        if name.startswith("module.")
    }
    model = build_model(preset.size, dropout=preset.dropout)
    model.load_state_dict(averaged)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / TOKENIZER_FOLDER)
    return Run(model, tokenizer, Progress(**state["progress"]))


def join_pairs(pairs: list[Pair], *, min_words: int) -> list[Pair]:
    """Neighbouring pairs joined until each source has at least so many words."""
    joined, sources, targets = [], list[str](), list[str]()
    for pair in pairs:
        sources.append(pair.source)
        targets.append(pair.target)
        if len(" ".join(sources).split()) >= min_words:
            joined.append(Pair(" ".join(sources), " ".join(targets)))
            sources, targets = [], []
    return joined


@dataclass(frozen=True)
class Measurement:
    """Decodes dev pairs with one exported checkpoint and scores the answers."""

    task: Task
    model: EncoderDecoderModel
    tokenizer: PreTrainedTokenizerFast

    def answers(self, pairs: list[Pair], length_penalty: float) -> list[str]:
        """What the checkpoint says to the sources."""
        generation = generation_config(self.task, length_penalty=length_penalty)
        return decode(self.model, self.tokenizer, [pair.source for pair in pairs], generation)

    def scores(self, pairs: list[Pair], length_penalty: float) -> Scores:
        """How well it does."""
        references = [pair.target for pair in pairs]
        return SCORING[self.task.name].score(self.answers(pairs, length_penalty), references)

    def tried(self, pairs: list[Pair]) -> dict[float, Scores]:
        """Scores for each length penalty of the task."""
        tried = {}
        for penalty in self.task.generation.length_penalties:
            tried[penalty] = self.scores(pairs, penalty)
            logger.info("length penalty %g: %s", penalty, shown(tried[penalty]))
        return tried

    def num_cut(self, pairs: list[Pair]) -> int:
        """How many sources the checkpoint is too short for."""
        longest = self.tokenizer.model_max_length
        sources = [pair.source for pair in pairs]
        lens = map(len, self.tokenizer(sources, truncation=False, verbose=False)["input_ids"])
        return sum(source_len > longest for source_len in lens)

    def long_inputs(self, pairs: list[Pair], length_penalty: float) -> list[LongInputs]:
        """Scores on joined pairs; none for a task whose sources are long as they are."""
        if not self.task.join.long:
            return []
        measured = []
        for min_words in _LONG_INPUT_WORDS:
            if not (joined := join_pairs(pairs, min_words=min_words)):
                break
            words = sum(len(pair.source.split()) for pair in joined) / len(joined)
            scores = self.scores(joined, length_penalty)
            logger.info("inputs of %.0f words: %s", words, shown(scores))
            measured.append(LongInputs(len(joined), words, scores))
        return measured


def measure(
    measurement: Measurement,
    preset: Preset,
    pairs: list[Pair],
    *,
    tuning_pairs: int,
    weights_bytes: int,
) -> Figures:
    """Every figure of the model card."""
    scoring = SCORING[measurement.task.name]
    tried = measurement.tried(spread(pairs, tuning_pairs))
    penalty = max(tried, key=lambda penalty: tried[penalty][scoring.chosen_by])
    answers = measurement.answers(pairs, penalty)
    answer_of = dict(zip(pairs, answers, strict=True))
    figures = Figures(
        size=preset.size,
        num_parameters=measurement.model.num_parameters(),
        weights_bytes=weights_bytes,
        length_penalty=penalty,
        tried=tried,
        tuning_pairs=min(tuning_pairs, len(pairs)),
        dev_pairs=len(pairs),
        cut_sources=measurement.num_cut(pairs),
        scores=scoring.score(answers, [pair.target for pair in pairs]),
        baselines=scoring.baseline_scores(pairs),
        long_inputs=measurement.long_inputs(pairs, penalty),
        examples=[(pair, answer_of[pair]) for pair in spread(pairs, _NUM_EXAMPLES)],
    )
    for name, scores in {"this checkpoint": figures.scores, **figures.baselines}.items():
        logger.info("%s: %s", name, shown(scores))
    return figures


def write_checkpoint(run: Run, task: Task, pairs: list[Pair], folder: Path) -> int:
    """Write the folder and read it back; returns the size of its weights in bytes.

    Raises:
        ValueError: The weights are too large, do not load cleanly, or answer otherwise than the
            model they were written from.
    """
    generation = generation_config(task, length_penalty=_NEUTRAL_LENGTH_PENALTY)
    save_checkpoint(run.model, run.tokenizer, generation, folder, languages=task.languages)
    weights_bytes = (folder / "model.safetensors").stat().st_size
    if weights_bytes > _MAX_WEIGHTS_BYTES:
        raise ValueError(f"{folder} holds {weights_bytes} bytes of weights, more than allowed")
    model, tokenizer = load_checkpoint(folder)
    sources = [pair.source for pair in spread(pairs, _CHECKED_ROWS)]
    run.model.float()  # type: ignore[no-untyped-call]
    ours = decode(run.model, run.tokenizer, sources, generation)
    if ours != decode(model, tokenizer, sources, generation):
        raise ValueError(f"{folder} answers otherwise than the model it was written from")
    return weights_bytes


def main(argv: list[str] | None = None) -> None:
    """Export the run that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .tsv.gz files")
    parser.add_argument("--work", type=Path, required=True, help="folder of runs")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--preset", choices=("tiny", "small", "base"), default="small")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--tuning-pairs", type=int, default=300, help="for the length penalty")
    parser.add_argument("--dev-pairs", type=int, help="only so many dev pairs")
    parser.add_argument("--note", default="", help="a sentence for the card's training section")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    task = TASKS[arguments.task]
    preset = task.presets[arguments.preset]
    pairs = read_pairs(arguments.data / task.dev_file)
    if arguments.dev_pairs is not None:
        pairs = spread(pairs, arguments.dev_pairs)
    run = load_run(preset, arguments.work / f"{task.checkpoint}.{arguments.preset}")
    weights_bytes = write_checkpoint(run, task, pairs, arguments.output)

    model, tokenizer = load_checkpoint(arguments.output)
    model.to(resolve_device(arguments.device))  # type: ignore[arg-type]
    figures = measure(
        Measurement(task, model, tokenizer),
        preset,
        pairs,
        tuning_pairs=arguments.tuning_pairs,
        weights_bytes=weights_bytes,
    )
    chosen = generation_config(task, length_penalty=figures.length_penalty)
    chosen.save_pretrained(arguments.output)
    progress = run.progress
    facts = TrainingFacts(
        preset=arguments.preset,
        steps=progress.step,
        epochs=progress.epochs_seen,
        minutes=progress.elapsed_s / 60,
        source_tokens=progress.source_tokens,
        target_tokens=progress.target_tokens,
        train_pairs=len(read_pairs(arguments.data / task.train_file)),
        note=arguments.note,
    )
    card = model_card(task, figures, facts)
    (arguments.output / "README.md").write_text(card, encoding="utf-8")
    logger.info("wrote %s, %.1f MB of weights", arguments.output, weights_bytes / 1e6)


if __name__ == "__main__":
    main()
