"""Loaded checkpoints behind one API, whichever way their tokens are made."""

import inspect
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from model_core.batching import may_pad, shares_experts
from model_core.checkpoint import Checkpoint, CheckpointOptions, load_checkpoint
from model_core.decoder import Decoder
from model_core.encoder import Encoder
from model_core.engine import Engine
from model_core.errors import CheckpointError
from model_core.fallback import MAX_BATCH_SIZE, GenerateRunner
from model_core.families import find_family
from model_core.generation import GenerationLimits
from model_core.lean import LeanRunner
from model_core.ledger import EngineStats
from model_core.observer import EngineObserver
from model_core.request import Output
from model_core.runner import ModelRunner
from model_core.scheduler import EngineLimits
from model_core.self_check import SelfCheck, check_decoder, is_padding_harmless
from model_core.text import PreparedSource, TextProcessor

_logger = logging.getLogger(__name__)

GENERATE = "generate"
"""Family of the checkpoints that are served through the library's own `generate()`."""


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
        family: `bert`, `bart`, `t5`, or `generate` where there is no lean decoder.
        checkpoint: What was loaded.
        text: Texts to sources and back.
        engine: The engine that runs it.
    """

    name: str
    family: str
    checkpoint: Checkpoint
    text: TextProcessor
    engine: Engine

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
    runners = {
        name: make_runner(checkpoint, encoder_cache_bytes=encoder_cache_bytes)
        for name, checkpoint in checkpoints.items()
    }
    lean = {name: runner for name, (family, runner) in runners.items() if family != GENERATE}
    shared = Engine(lean, limits, observer=observer)
    models = {}
    for name, checkpoint in checkpoints.items():
        family, runner = runners[name]
        own = family == GENERATE
        engine = Engine({name: runner}, limits, observer=observer) if own else shared
        _warn_of_lowered_length(checkpoint, generation_limits)
        text = TextProcessor(checkpoint, generation_limits)
        models[name] = ServedModel(name, family, checkpoint, text, engine)
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


def make_runner(checkpoint: Checkpoint, *, encoder_cache_bytes: int = 0) -> tuple[str, ModelRunner]:
    """The family and the runner of a checkpoint: lean where that is shown to be right.

    A checkpoint whose architecture has no family, whose own defaults ask for something that the
    lean search lacks, or that fails the self-check, goes through `generate()`.
    """
    _check_global_attention(checkpoint)
    reason = "its architecture has no lean decoder"
    found = find_family(checkpoint.model)
    if checkpoint.defaults.unserved:
        reason = f"its defaults ask for {', '.join(checkpoint.defaults.unserved)}"
    elif found is not None:
        family, build = found
        try:
            with torch.no_grad():
                decoder = build(checkpoint.model)
            encoder = _make_encoder(checkpoint)
            check = _check_decoder(checkpoint, decoder, encoder)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # Any encoder may stand before a decoder; some take no source as short as the check's.
            reason = f"its self-check could not run: {type(error).__name__}: {error}"
        else:
            if check.passed:
                return family, LeanRunner(
                    encoder,
                    decoder,
                    encoder_cache_bytes=encoder_cache_bytes,
                    stop_strings=checkpoint.stop_strings,
                )
            reason = (
                f"its logits differ by {check.difference:.1e} of their scale from the library's, "
                f"more than {check.tolerance:.0e}"
            )
    _logger.warning("%s is served through generate(), slower: %s", checkpoint.name, reason)
    return GENERATE, _make_generate_runner(checkpoint)


def _check_decoder(checkpoint: Checkpoint, decoder: Decoder, encoder: Encoder) -> SelfCheck:
    return check_decoder(
        checkpoint.model,
        decoder,
        encoder,
        vocab_size=checkpoint.vocab_size,
        pad_token_id=checkpoint.defaults.pad_token_id,
        decoder_start_token_id=checkpoint.defaults.decoder_start_token_id,
    )


def _check_global_attention(checkpoint: Checkpoint) -> None:
    encoder = checkpoint.model.get_encoder()
    known = inspect.signature(encoder.forward).parameters
    if checkpoint.global_attention != "none" and "global_attention_mask" not in known:
        raise CheckpointError(
            f"{checkpoint.name}: global_attention is {checkpoint.global_attention!r}: expected an "
            f"encoder that has global attention (LED, Longformer), found {type(encoder).__name__}"
        )


def _make_encoder(checkpoint: Checkpoint) -> Encoder:
    pad_token_id = checkpoint.defaults.pad_token_id
    encoder = Encoder(
        checkpoint.model,
        pad_token_id,
        may_pad=may_pad(checkpoint.model),
        global_attention=checkpoint.global_attention,
    )
    if encoder.may_pad and not is_padding_harmless(encoder, pad_token_id):
        _logger.warning("%s: its encoder feels padding; sources are not padded", checkpoint.name)
        encoder.may_pad = False
    return encoder


def _make_generate_runner(checkpoint: Checkpoint) -> GenerateRunner:
    model = checkpoint.model
    pad_token_id = checkpoint.defaults.pad_token_id
    return GenerateRunner(
        model,
        # It fills up sources: a pair may pad its targets with a token that its encoder lacks.
        pad_token_id if pad_token_id < checkpoint.source_vocab_size else 0,
        is_padding_invariant=may_pad(model),
        max_batch_size=1 if shares_experts(model) else MAX_BATCH_SIZE,
        global_attention=checkpoint.global_attention,
        stop_strings=checkpoint.stop_strings,
    )
