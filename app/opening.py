"""From settings to a service: which checkpoints to load, and how."""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from app.checkpoint_settings import (
    CheckpointSettings,
    check_names,
    key_of,
    read_checkpoint_settings,
)
from app.container_limits import available_memory
from app.logs import LogFormat
from app.metrics import Metrics
from app.routing import Routing
from app.service import TextService
from app.settings import SHIPPED, Settings, variable
from model_core.bounds import LoweredBounds
from model_core.checkpoint import CheckpointOptions
from model_core.errors import CheckpointError
from model_core.generation import GenerationLimits
from model_core.models import ModelSource, load_models
from model_core.repository import Repository
from model_core.scheduler import EngineLimits
from model_core.shape import Shape, device_type, read_shape
from model_core.spelling import did_you_mean
from model_core.workers.start import WorkerOptions

_FEW_WORKERS = 2
"""Each has a copy of the weights, so that nobody gets many without asking for them."""
_WORKER_BYTES = 2**29
"""The process without a checkpoint."""


def open_service(
    settings: Settings, *, is_partial: bool = False, has_workers: bool = False
) -> TextService:
    """A service whose checkpoints are loaded; it answers once its models are started.

    Args:
        settings: The operator's.
        is_partial: Whether some checkpoints of the set-up are left out on purpose, so that the
            file of checkpoint settings may name others.
        has_workers: Whether checkpoints go to worker processes, if the settings say so.

    Raises:
        CheckpointSettingsError: The file of checkpoint settings is wrong.
        CheckpointError: A checkpoint cannot be loaded.
    """
    metrics = Metrics()
    options = checkpoint_options(settings)
    sources = configured_sources(settings, options, is_partial=is_partial)
    for source in sources.values():
        _check_bare_name(source)
    loaded = load_models(
        sources.values(),
        options,
        engine_limits(settings),
        GenerationLimits(
            max_num_beams=settings.max_num_beams,
            max_source_len=settings.max_source_tokens,
            max_target_len=settings.max_target_tokens,
            bounds=LoweredBounds(settings.parameter_bounds),
        ),
        encoder_cache_bytes=settings.encoder_cache_bytes,
        num_threads=settings.num_threads,
        cuda_memory_fraction=settings.cuda_memory_fraction,
        observer=metrics,
        workers=worker_options(settings, sources.values()) if has_workers else None,
    )
    routing = Routing(
        loaded,
        translators=[sources[given].name for given in settings.translate_model],
        summarizers=[sources[given].name for given in settings.summarize_model],
    )
    return TextService(routing, settings, metrics)


def checkpoint_options(settings: Settings) -> CheckpointOptions:
    """How checkpoints are loaded that have no settings of their own."""
    return CheckpointOptions(
        dtype=settings.dtype,
        device=settings.device,
        allow_pickle=settings.allow_pickle,
        trust_remote_code=settings.trust_remote_code,
    )


def configured_sources(
    settings: Settings, options: CheckpointOptions, *, is_partial: bool
) -> dict[str, ModelSource]:
    """Each checkpoint once, by what the operator wrote for it, with its own settings.

    Raises:
        CheckpointSettingsError: The file of checkpoint settings is wrong.
    """
    sources = model_sources((*settings.translate_model, *settings.summarize_model))
    own_settings = read_checkpoint_settings(settings.checkpoints_file)
    if not is_partial:
        check_names(settings.checkpoints_file, own_settings, sources)
    return with_settings(sources, own_settings, options, settings.checkpoints_file)


def worker_options(settings: Settings, sources: Collection[ModelSource]) -> WorkerOptions | None:
    """The worker processes of a server; None where it decodes itself.

    Raises:
        CheckpointError: There are to be some, and a checkpoint is to run on a GPU.
    """
    check_workers(settings, sources)
    options = checkpoint_options(settings)
    shapes = (read_shape(each.location, each.options_over(options)) for each in sources)
    num_workers = resolve_workers(settings, sources, shapes, available_memory())
    if not num_workers:
        return None
    return WorkerOptions(num_workers, worker_command(settings.log_format))


def check_workers(settings: Settings, sources: Iterable[ModelSource]) -> None:
    """Refuse workers on a GPU.

    Raises:
        CheckpointError: There are to be some, and a checkpoint is to run on a GPU.
    """
    cuda = [source.name for source in sources if _is_for_cuda(source, settings)]
    if settings.workers and settings.workers != "auto" and cuda:
        expected = f"0 where {cuda[0]} runs on CUDA: workers are for a CPU"
        raise CheckpointError(f"{variable('workers')} is {settings.workers}: expected {expected}")


def resolve_workers(
    settings: Settings,
    sources: Iterable[ModelSource],
    shapes: Iterable[Shape],
    memory_bytes: int,
) -> int:
    """How many worker processes a server has, 0 where it decodes itself.

    Args:
        settings: The operator's.
        sources: Its checkpoints.
        shapes: Of these; read only where their size decides.
        memory_bytes: Of all processes together.
    """
    if settings.workers != "auto":
        return settings.workers
    if any(_is_for_cuda(source, settings) for source in sources):
        return 0
    most = min(_FEW_WORKERS, settings.num_threads or torch.get_num_threads())
    return most if most == 1 else min(most, _num_fitting(shapes, memory_bytes))


def _num_fitting(shapes: Iterable[Shape], memory_bytes: int) -> int:
    """Workers that leave half of the memory for caches and all else; one, if none does."""
    try:
        weights = sum(shape.weight_bytes + shape.copied_bytes for shape in shapes)
    except CheckpointError:
        return 1  # whoever loads it says what is wrong
    return max(1, memory_bytes // 2 // (_WORKER_BYTES + weights))


def worker_command(log_format: LogFormat) -> tuple[str, ...]:
    """Runs a worker process; see `app.worker`."""
    # -P: an `app` in the current folder is somebody else's.
    return (sys.executable, "-P", "-m", "app.worker", log_format)


def _is_for_cuda(source: ModelSource, settings: Settings) -> bool:
    device = settings.device if source.options is None else source.options.device
    return device_type(device) == "cuda"


def engine_limits(settings: Settings) -> EngineLimits:
    """What each checkpoint may hold."""
    return EngineLimits(
        max_running_requests=settings.max_running_requests,
        max_cache_bytes=settings.max_cache_bytes,
        max_encode_tokens=settings.max_encode_tokens,
        max_waiting_requests=settings.max_waiting_requests,
        max_waiting_tokens=settings.max_waiting_tokens,
    )


def model_sources(given: Iterable[str]) -> dict[str, ModelSource]:
    """Each checkpoint once, by what the operator wrote for it.

    A folder is called by its last part, unless two have the same.
    """
    sources = {each: _model_source(each) for each in given}
    num_uses = Counter(source.name for source in sources.values())
    return {
        each: source
        if num_uses[source.name] == 1
        else ModelSource(each, source.location, source.revision)
        for each, source in sources.items()
    }


def with_settings(
    sources: Mapping[str, ModelSource],
    settings: Mapping[str, CheckpointSettings],
    options: CheckpointOptions,
    file: str,
) -> dict[str, ModelSource]:
    """The same sources, each with its own settings over those of the server."""
    return {
        given: replace(
            source,
            revision=own.revision or source.revision,
            options=own.options(options, file),
        )
        if (own := settings.get(key_of(given)))
        else source
        for given, source in sources.items()
    }


def _check_bare_name(source: ModelSource) -> None:
    """Say which names are shipped where one is neither shipped nor to be had elsewhere.

    A few old checkpoints on the Hub have no owner in their names; none of them is called nearly
    like a shipped one, so that such a name needs no question to the Hub.
    """
    name = source.location
    if "/" in name or Path(name).exists():
        return
    shipped = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())
    expected = f"expected a folder, a Hub id or a shipped checkpoint, {' or '.join(shipped)}"
    if hint := did_you_mean(name, shipped, cutoff=0.75):
        raise CheckpointError(f"{name}: {expected}{hint}")
    try:
        Repository(name, source.revision).json("config.json", required=True)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {expected}; {error}") from error


def _model_source(given: str) -> ModelSource:
    if Path(given).is_dir():
        return ModelSource(Path(given).resolve().name, given)
    if (SHIPPED / given).is_dir():
        return ModelSource(given, str(SHIPPED / given))
    location, _, revision = given.partition("@")
    return ModelSource(location, location, revision or None)
