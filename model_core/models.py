"""Loaded checkpoints behind one API, whichever way their tokens are made."""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from model_core.checkpoint import Checkpoint, CheckpointOptions, load_checkpoint
from model_core.choose_runner import GENERATE, choose_runner
from model_core.engine import Engine
from model_core.generation import GenerationLimits
from model_core.ledger import EngineStats
from model_core.observer import EngineObserver
from model_core.request import Output
from model_core.scheduler import EngineLimits
from model_core.text import PreparedSource, TextProcessor

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which checkpoint to load under which name.

    Attributes:
        name: What answers, metrics and routes call it; unique in a set.
        location: A local folder or a Hub id.
        revision: Of a Hub id; None for its default branch.
        options: How to load it; None: as the others.
    """

    name: str
    location: str
    revision: str | None = None
    options: CheckpointOptions | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One checkpoint that answers requests.

    Attributes:
        name: See `ModelSource`.
        family: `bert`, `gpt2`, `bart`, `t5`, or `generate` where there is no lean decoder.
        checkpoint: What was loaded.
        text: Texts to sources and back.
        engine: The engine that runs it.
        reason: Why its family is `generate`; None for the others.
    """

    name: str
    family: str
    checkpoint: Checkpoint
    text: TextProcessor
    engine: Engine
    reason: str | None = None

    def submit(self, prepared: PreparedSource, *, deadline: float | None = None) -> Future[Output]:
        """Hand a prepared source to the engine; see `Engine.submit`."""
        return self.engine.submit(
            self.name, prepared.source_ids, prepared.parameters, deadline=deadline
        )

    def stats(self) -> EngineStats:
        """The load of this checkpoint."""
        return self.engine.stats(self.name)


class ModelSet:
    """All checkpoints of a process, started and stopped together."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self.models = dict(models)
        self._engines = list(dict.fromkeys(model.engine for model in models.values()))

    @property
    def is_alive(self) -> bool:
        """Whether the loop of every engine runs."""
        return all(engine.is_alive for engine in self._engines)

    def start(self) -> None:
        """Start every loop."""
        for engine in self._engines:
            engine.start()

    def close(self) -> None:
        """Stop every loop; what is in flight ends with an error."""
        for engine in self._engines:
            engine.close()


def load_models(
    sources: Iterable[ModelSource],
    options: CheckpointOptions,
    limits: EngineLimits,
    generation_limits: GenerationLimits,
    *,
    encoder_cache_bytes: int = 0,
    num_threads: int = 0,
    observer: EngineObserver | None = None,
) -> ModelSet:
    """Load checkpoints and give each its engine; nothing runs before `ModelSet.start`.

    Lean checkpoints share one engine and take turns. A checkpoint that goes through `generate()`
    blocks for whole requests, so it has an engine of its own.

    Args:
        sources: Which checkpoints, under which names.
        options: How to load them.
        limits: What each may hold.
        generation_limits: What a request may ask for.
        encoder_cache_bytes: Bound of each encoder-output cache, 0 for none.
        num_threads: Threads of torch in this process on a CPU; 0 leaves the choice to torch.
        observer: Is told what happens.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    checkpoints = {
        source.name: load_checkpoint(
            source.location, replace(source.options or options, revision=source.revision)
        )
        for source in sources
    }
    choices = {
        name: choose_runner(checkpoint, encoder_cache_bytes=encoder_cache_bytes)
        for name, checkpoint in checkpoints.items()
    }
    lean = {name: each.runner for name, each in choices.items() if each.family != GENERATE}
    shared = Engine(lean, limits, observer=observer)
    models = {}
    for name, checkpoint in checkpoints.items():
        choice = choices[name]
        own = choice.family == GENERATE
        engine = Engine({name: choice.runner}, limits, observer=observer) if own else shared
        _warn_of_lowered_length(checkpoint, generation_limits)
        text = TextProcessor(checkpoint, generation_limits)
        models[name] = ServedModel(name, choice.family, checkpoint, text, engine, choice.reason)
    return ModelSet(models)


def _warn_of_lowered_length(checkpoint: Checkpoint, limits: GenerationLimits) -> None:
    """Say that a default length of the checkpoint itself is more than can be served."""
    most = limits.max_target_len
    if checkpoint.max_target_len is not None:
        most = min(most, checkpoint.max_target_len)
    for values in (checkpoint.defaults.values, *dict(checkpoint.defaults.task_values).values()):
        length = values.max_length if values.max_new_tokens is None else values.max_new_tokens + 1
        if length is not None and length > most:
            _logger.warning(
                "%s: its default maximum of %d target tokens is lowered to %d",
                checkpoint.name,
                length,
                most,
            )
