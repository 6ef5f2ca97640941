"""Which runner a checkpoint gets: the lean one where that is shown to be right."""

import inspect
import logging
from dataclasses import dataclass

import torch

from model_core.batching import may_pad, shares_experts
from model_core.checkpoint import Checkpoint
from model_core.choose_lean import make_lean_runner
from model_core.cuda.checking import PoolSteps
from model_core.cuda.planning import CudaPlan
from model_core.decoder import Decoder
from model_core.encoder import Encoder
from model_core.errors import CheckpointError
from model_core.fallback import MAX_BATCH_SIZE, GenerateRunner
from model_core.families import find_family
from model_core.generation import GenerationParameters
from model_core.request import Request
from model_core.runner import ModelRunner
from model_core.self_check import GroupSteps, SelfCheck, check_decoder, is_padding_harmless

_logger = logging.getLogger(__name__)

GENERATE = "generate"
"""Family of the checkpoints that are served through the library's own `generate()`."""


@dataclass(frozen=True, slots=True)
class RunnerChoice:
    """How a checkpoint is served.

    Attributes:
        family: Of its decoder, or `GENERATE`.
        runner: What runs it.
        reason: Why it goes through `generate()`; None where it does not.
    """

    family: str
    runner: ModelRunner
    reason: str | None = None


class _UnfitError(Exception):
    """The lean decoder is not for this checkpoint; says why."""


def choose_runner(
    checkpoint: Checkpoint, *, encoder_cache_bytes: int = 0, cuda: CudaPlan | None = None
) -> RunnerChoice:
    """The family and the runner of a checkpoint: lean where that is shown to be right.

    A checkpoint whose architecture has no family, whose own defaults ask for something that the
    lean search lacks, or that fails the self-check, goes through `generate()`.

    Args:
        checkpoint: What was loaded.
        encoder_cache_bytes: Bound of the encoder-output cache, 0 for none.
        cuda: What it may take of its device, for paged caches and captured steps; else None.

    Raises:
        CheckpointError: Not even `generate()` can run it, or an option does not fit it: int8 needs
            the lean decoder.
    """
    _check_global_attention(checkpoint)
    try:
        family, encoder, decoder = _checked_parts(checkpoint, is_paged=cuda is not None)
    except _UnfitError as error:
        return _through_generate(checkpoint, reason=str(error))
    lean = make_lean_runner(
        checkpoint, encoder, decoder, encoder_cache_bytes=encoder_cache_bytes, cuda=cuda
    )
    return RunnerChoice(family, lean)


def _checked_parts(checkpoint: Checkpoint, *, is_paged: bool) -> tuple[str, Encoder, Decoder]:
    """Family, encoder and lean decoder, shown to give the library's logits.

    Raises:
        _UnfitError: They do not, or there are none.
    """
    found = find_family(checkpoint.model)
    if checkpoint.defaults.unserved:
        raise _UnfitError(f"its defaults ask for {', '.join(checkpoint.defaults.unserved)}")
    if found is None:
        raise _UnfitError("its architecture has no lean decoder")
    family, build = found
    try:
        with torch.no_grad():
            decoder = build(checkpoint.model)
        encoder = _make_encoder(checkpoint)
        check = _check_decoder(checkpoint, decoder, encoder, is_paged=is_paged)
        if check.passed and checkpoint.dtype == torch.int8:
            # Its bound is wide: that the decoder is the right one is shown before, in float32.
            decoder, encoder = decoder.packed(int8=True), encoder.packed("int8")
            check = _check_decoder(checkpoint, decoder, encoder)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # Any encoder may stand before a decoder; some take no source as short as the check's.
        reason = f"its self-check could not run: {type(error).__name__}: {error}"
        raise _UnfitError(reason) from error
    if not check.passed:
        raise _UnfitError(
            f"its logits differ by {check.difference:.1e} of their scale from the library's, "
            f"more than {check.tolerance:.0e}"
        )
    return family, encoder, decoder


def _through_generate(checkpoint: Checkpoint, reason: str) -> RunnerChoice:
    if checkpoint.dtype == torch.int8:
        raise CheckpointError(
            f"{checkpoint.name}: dtype is int8: expected a checkpoint that the lean decoder can "
            f"serve, found that {reason}"
        )
    _logger.warning("%s is served through generate(), slower: %s", checkpoint.name, reason)
    runner = _make_generate_runner(checkpoint)
    _check_generate(checkpoint, runner)
    return RunnerChoice(GENERATE, runner, reason)


def _check_decoder(
    checkpoint: Checkpoint, decoder: Decoder, encoder: Encoder, *, is_paged: bool = False
) -> SelfCheck:
    return check_decoder(
        checkpoint.model,
        decoder,
        encoder,
        vocab_size=checkpoint.vocab_size,
        pad_token_id=checkpoint.defaults.pad_token_id,
        decoder_start_token_id=checkpoint.defaults.decoder_start_token_id,
        steps_of=PoolSteps if is_paged else GroupSteps,
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


def _check_generate(checkpoint: Checkpoint, runner: GenerateRunner) -> None:
    """Let `generate()` answer once, with beams: what it cannot do shall fail here, not on calls."""
    defaults = checkpoint.defaults
    parameters = GenerationParameters(
        decoder_start_token_id=defaults.decoder_start_token_id,
        pad_token_id=defaults.pad_token_id,
        eos_token_ids=(),
        max_length=4,
        num_beams=2,
    )
    runner.admit([Request("check", (0,) * 8, parameters)])
    try:
        runner.step()
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.name}: expected a checkpoint that generate() can run, found: "
            f"{type(error).__name__}: {error}"
        ) from error
