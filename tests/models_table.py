"""Measures every tiny architecture against `generate()` and writes docs/models.md.

`python -m tests.models_table` runs, for each, greedy and beam searches of random sources through
the engine, in random order and among companions with random parameters, and holds every answer
against `generate()` alone.
"""

import argparse
import logging
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from model_core.checkpoint import CheckpointOptions
from model_core.choose_runner import GENERATE
from model_core.engine import Engine
from model_core.families import find_family
from model_core.generation import GenerationLimits, GenerationParameters
from model_core.models import ModelSource, load_models
from model_core.request import Output
from model_core.scheduler import EngineLimits
from model_core.verification.compare import compare
from model_core.verification.near_tie import explain
from model_core.verification.reference import generate_alone
from tests import tiny
from tests.lean import load_lean, random_parameters, random_source
from tests.models_notes import NOTES

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
NUM_REQUESTS = 60
NUM_COMPANIONS = 20
SEARCHES: tuple[dict[str, Any], ...] = ({}, {"num_beams": 4})
NAMES = (*tiny.LEAN_ARCHITECTURES, *tiny.FALLBACK_ARCHITECTURES)


@dataclass(frozen=True)
class Facts:
    """What a row says without a measurement."""

    name: str
    architecture: str
    model_type: str
    family: str
    notes: str


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    facts: Facts
    greedy: str
    beam: str

    def cells(self) -> list[str]:
        """As they stand in the table."""
        name, architecture, model_type, family, notes = astuple(self.facts)
        shown = f"`{family}()`" if family == GENERATE else f"`{family}`"
        return [name, architecture, model_type, shown, self.greedy, self.beam, notes]


def facts_of(name: str) -> Facts:
    """What the model itself says."""
    model: PreTrainedModel = tiny.TINY_ARCHITECTURES[name]()
    config: Any = model.config
    model_type = config.model_type
    if model_type == "encoder-decoder":
        model_type += f": {config.encoder.model_type}, {config.decoder.model_type}"
    family = find_family(model)
    return Facts(
        name,
        type(model).__name__,
        model_type,
        GENERATE if family is None else family[0],
        NOTES.get(name, ""),
    )


def measure(name: str, num_requests: int) -> Row:
    """Run an architecture from disk as the service does, and count equal answers."""
    with TemporaryDirectory() as folder:
        source = ModelSource(name, str(tiny.build_tiny_checkpoint(name, Path(folder))))
        options = CheckpointOptions(device="cpu")
        served = load_models([source], options, EngineLimits(), GenerationLimits()).models[name]
    assert served.family == facts_of(name).family
    assert isinstance(served.engine, Engine)
    greedy, beam = _counts(name, served.engine, served.checkpoint.model, num_requests)
    return Row(facts_of(name), greedy, beam)


def _counts(name: str, engine: Engine, model: PreTrainedModel, num_requests: int) -> list[str]:
    """How many answers are those of `generate()`, for each search."""
    lean, rng = load_lean(name), random.Random(name)
    sources = tiny.random_sources(num_requests, eos=lean.defaults.eos_token_ids[0], seed=1)
    searches = [replace(lean.defaults, **search) for search in SEARCHES]
    work = [(source, search) for source in sources for search in searches]
    companions = [
        (random_source(lean, rng), random_parameters(lean, rng)) for _ in range(NUM_COMPANIONS)
    ]
    mixed = [*work, *companions]
    rng.shuffle(mixed)
    futures = {}
    for source, parameters in mixed:
        futures[source, parameters] = engine.submit(name, source, parameters)
        for _ in range(rng.randint(0, 3)):
            engine.step()
    while engine.step():
        pass
    return [
        _count(
            model, {source: futures[source, search].result(timeout=0) for source in sources}, search
        )
        for search in searches
    ]


def _count(
    model: PreTrainedModel, outputs: Mapping[tuple[int, ...], Output], search: GenerationParameters
) -> str:
    num_same = num_ties = 0
    for source, output in outputs.items():
        reference = generate_alone(model, source, search)
        if compare(output, reference).is_same:
            num_same += 1
        elif explain(reference, output) is not None:
            num_ties += 1
    ties = f", near-ties: {num_ties}" if num_ties else ""
    return f"{num_same}/{len(outputs)}{ties}"


def not_encoder_decoders() -> list[tuple[str, str]]:
    """Model types that the library lists for `AutoModelForSeq2SeqLM` and that are decoder-only."""
    listed = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.items()
    return [
        (kind, name) for kind, name in listed if not AutoConfig.for_model(kind).is_encoder_decoder
    ]


def render(rows: Iterable[Row], num_requests: int) -> str:
    """The page."""
    head = ["checkpoint", "class", "model type", "family", "greedy", "beam", "notes"]
    table = _table(head, [row.cells() for row in rows])
    refused = _table(
        ["model type", "class"], [[f"`{kind}`", name] for kind, name in not_encoder_decoders()]
    )
    return _PAGE.format(
        version=version("transformers"),
        num_requests=num_requests,
        num_companions=NUM_COMPANIONS,
        table=table,
        refused=refused,
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read_page() -> dict[str, Row]:
    """The measured columns of the page, under the facts of today."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0] in NAMES:
            rows[cells[0]] = Row(facts_of(cells[0]), greedy=cells[4], beam=cells[5])
    return rows


def main(argv: list[str], write: Callable[[str], object] = sys.stdout.write) -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description="measure every architecture, write docs/models.md")
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS, help="of each search")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="keep the other rows of the page")
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = read_page() if arguments.only else {}
    for name in arguments.only or NAMES:
        rows[name] = row = measure(name, arguments.requests)
        write(f"{name}: greedy {row.greedy}, beam {row.beam}\n")
    in_order = [rows[name] for name in NAMES if name in rows]
    PAGE.write_text(render(in_order, arguments.requests), encoding="utf-8")


_PAGE = """# Models

Written by `make models-table`, from a run with transformers {version}. Every row is a tiny random
checkpoint of one architecture, loaded from disk as the service loads it.

- *family*: the lean decoder that runs it (see [design](design.md)), or `generate()`: the library's
  own, micro-batched.
- *greedy*, *beam*: of {num_requests} random sources each, how many got the tokens, the finish
  reason and the score (to 1e-4) that `generate()` gives them alone; beam with four beams. The
  requests of both searches went through one engine in random order, at random steps, among
  {num_companions} companions with random parameters. A *near-tie* is an answer that differs because
  two candidates of `generate()` itself were closer than the noise of float32, which was shown:
  with that one candidate nudged, it gives our answer.

{table}

## What the library lists besides

These load through `AutoModelForSeq2SeqLM`, yet are no encoder-decoders: language models that read
audio. They are refused when they are loaded.

{refused}
"""


if __name__ == "__main__":
    main(sys.argv[1:])
