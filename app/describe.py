"""What the server says of itself."""

import platform
from importlib.metadata import version

from app.schemas import LanguagePairs, Languages, ModelInfo, ModelLanguages, ServerInfo
from app.service import TextService
from app.settings import Settings
from model_core.choose_runner import GENERATE
from model_core.generation import Task
from model_core.languages import Languages as KnownLanguages
from model_core.models import ServedModel

_PACKAGES = ("tandem-serve", "torch", "transformers", "tokenizers")
_LEAN = (
    "the tokens of generate() in float32; joins the batch at the next step, leaves it at once, "
    "cancelled within one step"
)
_CUDA = (
    "the tokens of generate() in float32; is encoded within eight turns and joins the batch then, "
    "is answered within four steps, thirteen while others are encoded, cancelled within one"
)
_INT8 = (
    "tokens near those of generate() in float32, whatever else is in the batch; joins the batch at "
    "the next step, leaves it at once, cancelled within one step"
)
_FALLBACK = (
    "the tokens of generate(); waits for the batch before it, batched with requests of equal "
    "parameters only"
)


def describe_server(service: TextService) -> ServerInfo:
    """Checkpoints, limits and versions."""
    return ServerInfo(
        models=[_describe(model, _tasks_of(service, model)) for model in service.routing.models],
        limits=limits_of(service.settings),
        versions={
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
    )


def describe_languages(service: TextService) -> Languages:
    """What each checkpoint of `/translate` translates."""
    return Languages(
        models=[
            _describe_languages(model.name, model.checkpoint.languages)
            for model in service.routing.translators
        ]
    )


def limits_of(settings: Settings) -> dict[str, int | float | dict[str, float]]:
    """The settings that bound what a caller gets: counts, bytes, seconds, parameters."""
    return {
        field: value
        for field, value in settings
        if field.startswith("max_") or field.endswith(("_bytes", "_s", "_bounds"))
    }


def _describe_languages(name: str, known: KnownLanguages) -> ModelLanguages:
    return ModelLanguages(
        model=name,
        source_languages=list(known.sources),
        target_languages=list(known.targets),
        pairs=[
            LanguagePairs(source_languages=list(sources), target_languages=list(targets))
            for sources, targets in known.pairs
        ],
        default_target_language=known.default_target,
    )


def _describe(model: ServedModel, tasks: list[Task]) -> ModelInfo:
    checkpoint = model.checkpoint
    return ModelInfo(
        name=model.name,
        source=checkpoint.name,
        revision=checkpoint.revision,
        architecture=checkpoint.architecture,
        family=model.family,
        reason=model.reason,
        promise=_promise(model),
        device=str(checkpoint.device),
        dtype=_dtype(model),
        tasks=tasks,
        max_source_tokens=model.text.max_source_len,
        max_target_tokens=checkpoint.max_target_len,
        cache_bytes=model.cache_bytes,
    )


def _promise(model: ServedModel) -> str:
    if model.family == GENERATE:
        return _FALLBACK
    if model.cache_bytes is not None:
        return _CUDA
    return _INT8 if _dtype(model) == "int8" else _LEAN


def _dtype(model: ServedModel) -> str:
    return str(model.checkpoint.dtype).removeprefix("torch.")


def _tasks_of(service: TextService, model: ServedModel) -> list[Task]:
    tasks: list[Task] = []
    if model in service.routing.translators:
        tasks.append("translate")
    if model in service.routing.summarizers:
        tasks.append("summarize")
    return tasks
