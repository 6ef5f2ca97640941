"""The lean runner that suits a checkpoint's device."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from model_core.checkpoint import Checkpoint
from model_core.cuda.planning import CudaPlan
from model_core.cuda.runner import PooledRunner
from model_core.decoder import Decoder
from model_core.encoder import Encoder
from model_core.errors import InvalidRequestError
from model_core.generation import GenerationLimits, GenerationOverrides, GenerationParameters
from model_core.lean import LeanRunner
from model_core.resolve import resolve
from model_core.runner import ModelRunner

_WIDTHS: Sequence[GenerationOverrides] = (
    GenerationOverrides(),
    GenerationOverrides(num_beams=1, num_return_sequences=1),
)


def make_lean_runner(
    checkpoint: Checkpoint,
    encoder: Encoder,
    decoder: Decoder,
    *,
    encoder_cache_bytes: int,
    cuda: CudaPlan | None,
) -> ModelRunner:
    """A runner over the lean decoder: with captured steps where there is a plan, and warm.

    Raises:
        CheckpointError: The plan leaves no room for a request.
    """
    if cuda is None:
        return LeanRunner(
            encoder,
            decoder,
            encoder_cache_bytes=encoder_cache_bytes,
            stop_strings=checkpoint.stop_strings,
        )
    runner = PooledRunner(
        encoder,
        decoder,
        cuda.capacity(decoder.cache_layout),
        encoder_cache_bytes=encoder_cache_bytes,
        stop_strings=checkpoint.stop_strings,
    )
    runner.warm_up(list(_usual_parameters(checkpoint)))
    return runner


def _usual_parameters(checkpoint: Checkpoint) -> Iterator[GenerationParameters]:
    """What requests that name little ask for: the checkpoint's own beam width, and no beams."""
    defaults = checkpoint.defaults
    of_tasks = [defaults.for_task(name) for name, _ in defaults.task_values]
    for each in (defaults, *of_tasks):
        for overrides in _WIDTHS:
            try:
                parameters = resolve(each, overrides, limits=GenerationLimits())
            except InvalidRequestError:
                continue  # whoever asks for that is told
            if len(checkpoint.languages.targets) > 1 and parameters.forced_bos_token_id is None:
                parameters = replace(parameters, forced_bos_token_id=0)  # each language has one
            yield parameters
