"""Loaded checkpoints behind one API, whichever way their tokens are made."""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from model_core.checkpoint import Checkpoint, CheckpointOptions, load_checkpoint
from model_core.choose_runner import GENERATE, RunnerChoice, choose_runner
from model_core.cuda.planning import CudaPlan, free_bytes
from model_core.cuda.runner import PooledRunner
from model_core.engine import Engine
from model_core.engines import Engines
from model_core.generation import GenerationLimits
from model_core.ledger import EngineStats
from model_core.observer import EngineObserver
from model_core.own_thread import in_thread_of_its_own
from model_core.repository import Repository
from model_core.request import Output, Priority, Prospect
from model_core.runner import ModelRunner
from model_core.scheduler import EngineLimits
from model_core.text import PreparedSource, TextProcessor
from model_core.workers.messages import Description
from model_core.workers.process import RemoteRunner, Worker
from model_core.workers.start import WorkerOptions, close_workers, start_workers

_logger = logging.getLogger(__name__)

_STEPS_BETWEEN_ADMISSIONS = 8
"""On a GPU: to launch a pass of the encoder takes the host as long as the device takes for some
steps."""


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

    def options_over(self, defaults: CheckpointOptions) -> CheckpointOptions:
        """How to load it, at its revision, where others are loaded so."""
        return replace(self.options or defaults, revision=self.revision)


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One checkpoint that answers requests.

    Attributes:
        name: See `ModelSource`.
        family: `bert`, `gpt2`, `bart`, `t5`, or `generate` where there is no lean decoder.
        checkpoint: What was loaded.
        text: Texts to sources and back.
        engine: The engine that runs it, or those of several workers.
        reason: Why its family is `generate`; None for the others.
        cache_bytes: Memory of its attention caches, allocated when it was loaded; None where they
            grow with the requests.
    """

    name: str
    family: str
    checkpoint: Checkpoint
    text: TextProcessor
    engine: Engine | Engines
    reason: str | None = None
    cache_bytes: int | None = None

    def submit(
        self,
        prepared: PreparedSource,
        *,
        deadline: float | None = None,
        client: str = "",
        priority: Priority = "interactive",
    ) -> Future[Output]:
        """Hand a prepared source to the engine; see `Engine.submit`."""
        return self.engine.submit(
            self.name,
            prepared.source_ids,
            prepared.parameters,
            deadline=deadline,
            client=client,
            priority=priority,
        )

    def check_room(self, prospect: Prospect) -> None:
        """Refuse what the engine would refuse for want of room; see `Engine.check_room`."""
        self.engine.check_room(self.name, prospect)

    def stats(self) -> EngineStats:
        """The load of this checkpoint."""
        return self.engine.stats(self.name)


class ModelSet:
    """All checkpoints of a process, started and stopped together.

    Args:
        models: By name.
        workers: Processes that some of them are in.
    """

    def __init__(self, models: Mapping[str, ServedModel], workers: Sequence[Worker] = ()) -> None:
        self.models = dict(models)
        self.workers = tuple(workers)
        engines = [each for model in models.values() for each in _engines_of(model)]
        self.engines = tuple(dict.fromkeys(engines))

    def start(self) -> None:
        """Start every loop."""
        for worker in self.workers:
            worker.open()
        for engine in self.engines:
            engine.start()

    def close(self, timeout: float | None = None) -> None:
        """Stop every loop; what is in flight ends with an error.

        Args:
            timeout: Seconds to wait for the steps that the loops are at.
        """
        end = None if timeout is None else time.monotonic() + timeout
        for engine in self.engines:
            engine.close(None if end is None else max(0.0, end - time.monotonic()))
        close_workers(self.workers)


def _engines_of(model: ServedModel) -> tuple[Engine, ...]:
    return model.engine.engines if isinstance(model.engine, Engines) else (model.engine,)


@in_thread_of_its_own
def load_models(
    sources: Iterable[ModelSource],
    options: CheckpointOptions,
    limits: EngineLimits,
    generation_limits: GenerationLimits,
    *,
    encoder_cache_bytes: int = 0,
    num_threads: int = 0,
    cuda_memory_fraction: float = 0.8,
    observer: EngineObserver | None = None,
    workers: WorkerOptions | None = None,
) -> ModelSet:
    """Load checkpoints and give each its engine; nothing runs before `ModelSet.start`.

    Lean checkpoints share one engine and take turns; where there are workers, each of those has
    such an engine. A checkpoint that goes through `generate()` blocks for whole requests, so it has
    an engine of its own, and it is in this process.

    Loading runs in a thread of its own, with whose end its OpenMP threads end. While there are more
    of them than processors, even idle ones, libgomp lets none wait actively, and a step of the
    engine's thread takes half as long again.

    Args:
        sources: Which checkpoints, under which names.
        options: How to load them.
        limits: What each may hold; with workers, what each may hold in one of them, but those that
            wait are shared out.
        generation_limits: What a request may ask for.
        encoder_cache_bytes: Bound of each encoder-output cache, 0 for none.
        num_threads: Threads of torch on a CPU; 0 leaves the choice to torch.
        cuda_memory_fraction: Share of a CUDA device's memory, of what is free behind the weights,
            that attention caches get, all checkpoints alike. It takes the place of
            `limits.max_cache_bytes` there.
        observer: Is told what happens.
        workers: Processes for the lean checkpoints; None keeps everything in this one.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    located = {
        source.name: (
            source.location,
            source.options_over(options) if workers is None else _pinned(source, options),
        )
        for source in sources
    }
    processes: Sequence[Worker] = ()
    runs: dict[str, _Run] = {}
    with ExitStack() as undo:  # where something fails below
        if workers is not None:
            processes, described = start_workers(workers, located, encoder_cache_bytes)
            undo.callback(close_workers, processes)
            runs = _remote_runs(processes, described, limits, observer)
        checkpoints = {
            name: load_checkpoint(*where) for name, where in located.items() if name not in runs
        }
        plans = _cuda_plans(checkpoints, limits, generation_limits, cuda_memory_fraction)
        choices = {
            name: choose_runner(
                checkpoint, encoder_cache_bytes=encoder_cache_bytes, cuda=plans.get(name)
            )
            for name, checkpoint in checkpoints.items()
        }
        runs |= _local_runs(checkpoints, choices, limits, observer)
        served = {name: _served(name, runs[name], generation_limits) for name in located}
        undo.pop_all()
    return ModelSet(served, processes)


def _pinned(source: ModelSource, options: CheckpointOptions) -> CheckpointOptions:
    """One commit for all workers, also for those that are started again later."""
    files = Repository(source.location, source.revision)
    files.check()
    files.pin()
    return replace(source.options_over(options), revision=files.revision)


@dataclass(frozen=True, slots=True)
class _Run:
    """How a checkpoint is run; see `ServedModel`."""

    checkpoint: Checkpoint
    family: str
    engine: Engine | Engines
    reason: str | None = None
    cache_bytes: int | None = None


def _served(name: str, run: _Run, generation_limits: GenerationLimits) -> ServedModel:
    _warn_of_lowered_length(run.checkpoint, generation_limits)
    text = TextProcessor(run.checkpoint, generation_limits)
    return ServedModel(
        name, run.family, run.checkpoint, text, run.engine, run.reason, run.cache_bytes
    )


def _local_runs(
    checkpoints: Mapping[str, Checkpoint],
    choices: Mapping[str, RunnerChoice],
    limits: EngineLimits,
    observer: EngineObserver | None,
) -> dict[str, _Run]:
    """What this process runs: lean checkpoints on one engine, others on one each."""
    lean = {name: each.runner for name, each in choices.items() if each.family != GENERATE}
    shared = Engine(
        lean, {name: _limits_of(runner, limits) for name, runner in lean.items()}, observer=observer
    )
    runs = {}
    for name, choice in choices.items():
        own = choice.family == GENERATE
        engine = Engine({name: choice.runner}, limits, observer=observer) if own else shared
        cache_bytes = choice.runner.cache_bytes if isinstance(choice.runner, PooledRunner) else None
        runs[name] = _Run(checkpoints[name], choice.family, engine, choice.reason, cache_bytes)
    return runs


def _remote_runs(
    workers: Sequence[Worker],
    described: Mapping[str, Description],
    limits: EngineLimits,
    observer: EngineObserver | None,
) -> dict[str, _Run]:
    """What workers run: the lean checkpoints, on an engine for each worker."""
    if not workers:
        return {}
    part = replace(
        limits,
        max_waiting_requests=math.ceil(limits.max_waiting_requests / len(workers)),
        max_waiting_tokens=math.ceil(limits.max_waiting_tokens / len(workers)),
    )
    engines = Engines(
        [
            Engine(
                {
                    name: RemoteRunner(worker, name, each.slot_cost)
                    for name, each in described.items()
                },
                part,
                observer=observer,
            )
            for worker in workers
        ],
        workers,
    )
    return {name: _Run(each.checkpoint, each.family, engines) for name, each in described.items()}


def _cuda_plans(
    checkpoints: Mapping[str, Checkpoint],
    limits: EngineLimits,
    generation_limits: GenerationLimits,
    fraction: float,
) -> dict[str, CudaPlan]:
    """Equal parts of a CUDA device for each checkpoint on it; nothing elsewhere."""
    on_cuda = {
        name: checkpoint
        for name, checkpoint in checkpoints.items()
        if checkpoint.model.device.type == "cuda"
    }
    devices = Counter(checkpoint.model.device for checkpoint in on_cuda.values())
    parts = {
        device: int(free_bytes(device) * fraction) // count for device, count in devices.items()
    }
    return {
        name: CudaPlan(
            num_bytes=parts[checkpoint.model.device],
            num_slots=limits.max_running_requests,
            max_source_len=_least(generation_limits.max_source_len, checkpoint.max_source_len),
            max_target_len=_least(generation_limits.max_target_len, checkpoint.max_target_len),
            max_num_beams=generation_limits.max_num_beams,
        )
        for name, checkpoint in on_cuda.items()
    }


def _least(limit: int, positions: int | None) -> int:
    return limit if positions is None else min(limit, positions)


def _limits_of(runner: ModelRunner, limits: EngineLimits) -> EngineLimits:
    if isinstance(runner, PooledRunner):
        return replace(
            limits,
            max_cache_bytes=runner.cache_bytes,
            max_admitted_requests=limits.max_running_requests * 5 // 4,
            steps_between_admissions=_STEPS_BETWEEN_ADMISSIONS,
        )
    return limits


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
