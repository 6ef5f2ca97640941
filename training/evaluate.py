"""Scores a checkpoint: `python -m training.evaluate translate --data DIR --checkpoint FOLDER`.

With `--served DTYPE` the answers are those of the server's engine in that dtype.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import EncoderDecoderModel, GenerationConfig, PreTrainedTokenizerFast

from model_core.checkpoint import CheckpointOptions, DType
from model_core.generation import GenerationLimits, Task
from model_core.models import ModelSource, load_models
from model_core.scheduler import EngineLimits
from training.checkpoint import load_checkpoint
from training.data import read_pairs, spread
from training.devices import resolve_device
from training.scoring import SCORING, shown
from training.tasks import TASKS

logger = logging.getLogger(__name__)

_DECODE_ROWS = 32


def decode(
    model: EncoderDecoderModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[str],
    generation: GenerationConfig,
) -> list[str]:
    """What the model answers to each source, in the order given; sources too long are cut.

    Leaves the model in evaluation mode.
    """
    model.eval()  # type: ignore[no-untyped-call]
    outputs = [""] * len(sources)
    by_len = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    for start in range(0, len(by_len), _DECODE_ROWS):
        rows = by_len[start : start + _DECODE_ROWS]
        inputs = tokenizer(
            [sources[row] for row in rows], padding=True, truncation=True, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            target_ids: Any = model.generate(  # type: ignore[misc]
                **inputs, generation_config=generation
            )
        texts = tokenizer.batch_decode(target_ids, skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            outputs[row] = text
    return outputs


def decode_served(folder: Path, task: Task, sources: Sequence[str], dtype: DType) -> list[str]:
    """What the engine answers to each source, in the order given; sources too long are cut."""
    models = load_models(
        [ModelSource("served", str(folder))],
        CheckpointOptions(dtype=dtype),
        EngineLimits(max_waiting_requests=len(sources), max_waiting_tokens=sys.maxsize),
        GenerationLimits(),
    )
    model = models.models["served"]
    futures = [
        model.submit(model.text.prepare(source, task=task, overflow="truncate"))
        for source in sources
    ]
    while model.engine.step():
        pass
    return [model.text.detokenize(future.result().best.token_ids) for future in futures]


def main(argv: list[str] | None = None) -> None:
    """Log the dev scores of the checkpoint and of the baselines."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the .tsv.gz files")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--pairs", type=int, help="only so many dev pairs")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--served", choices=get_args(DType), help="answers of the engine in this dtype"
    )
    parser.add_argument("--samples", type=int, default=5, help="answers to show")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    scoring = SCORING[arguments.task]
    pairs = read_pairs(arguments.data / TASKS[arguments.task].dev_file)
    if arguments.pairs is not None:
        pairs = spread(pairs, arguments.pairs)
    sources = [pair.source for pair in pairs]
    if arguments.served is not None:
        outputs = decode_served(arguments.checkpoint, arguments.task, sources, arguments.served)
    else:
        model, tokenizer = load_checkpoint(arguments.checkpoint)
        model.to(resolve_device(arguments.device))  # type: ignore[arg-type]
        outputs = decode(model, tokenizer, sources, model.generation_config)
    answers = dict(zip(pairs, outputs, strict=True))
    for pair in spread(pairs, arguments.samples):
        output = answers[pair]
        logger.info("source    %s\nreference %s\nanswer    %s", pair.source, pair.target, output)
    for name, scores in scoring.baseline_scores(pairs).items():
        logger.info("%s: %s", name, shown(scores))
    scores = scoring.score(outputs, [pair.target for pair in pairs])
    logger.info("%s: %s", arguments.checkpoint.name, shown(scores))


if __name__ == "__main__":
    main()
