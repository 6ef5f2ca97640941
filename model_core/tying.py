"""Ties the decoder of an `EncoderDecoderModel` to its encoder, as transformers 4 did.

`tie_encoder_decoder` made every layer that both sides have one and the same; cross-attention and
the output projection stayed the decoder's own. Files of such checkpoints may hold each weight once,
under the encoder's name or the decoder's. Transformers 5 passes over the entry: it would fill what
is missing with random numbers.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderModel, PreTrainedModel

from model_core.errors import CheckpointError

_logger = logging.getLogger(__name__)


def tie_decoder_to_encoder(
    model: PreTrainedModel, missing: set[str], *, is_forced: bool = False
) -> set[str]:
    """Share the weights of both sides; what one side lacks comes from the other.

    A file that holds both, with different values, was saved by something that does not tie, as
    transformers 5: its weights are left apart, unless the operator says otherwise. Then those of
    the decoder are taken, as in transformers 4.

    Args:
        model: Just loaded.
        missing: Names of weights that its file lacks.
        is_forced: Whether to tie weights that differ.

    Returns:
        What is missing still.

    Raises:
        CheckpointError: The sides cannot be tied.
    """
    loaded = _loaded(model, missing)
    pairs = [_Pair(model, *names) for names in _shared_names(model)]
    differing = [pair for pair in pairs if pair.differs(loaded)]
    if differing and not is_forced:
        _logger.warning(
            "%s: config.json says tie_encoder_decoder, yet the file holds different weights for "
            "both sides (%d of %d, such as %s): they are left apart, as transformers 5 does",
            model.name_or_path,
            len(differing),
            len(pairs),
            differing[0].decoder_name,
        )
        return missing
    for pair in pairs:
        pair.tie(loaded)
    loaded = _loaded(model, missing)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name for name in missing if id(parameters.get(name)) not in loaded}


def _loaded(model: PreTrainedModel, missing: set[str]) -> set[int]:
    """Identities of the parameters that came from the file, under whichever of their names."""
    named = model.named_parameters(remove_duplicate=False)
    return {id(parameter) for name, parameter in named if name not in missing}


def _shared_names(model: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """Names of the parameters that both sides have: the encoder's, the decoder's."""
    if not isinstance(model, EncoderDecoderModel):
        raise CheckpointError(
            "expected an EncoderDecoderModel where tie_encoder_decoder is set, "
            f"found {type(model).__name__}"
        )
    decoder: Any = model.decoder
    encoder: Any = model.encoder
    encoder_names = {name for name, _ in encoder.named_parameters(remove_duplicate=False)}
    stack = f"{decoder.base_model_prefix}."
    for name, _ in decoder.named_parameters(remove_duplicate=False):
        if name.startswith(stack) and name.removeprefix(stack) in encoder_names:
            yield f"encoder.{name.removeprefix(stack)}", f"decoder.{name}"


class _Pair:
    """One parameter of the encoder and its counterpart in the decoder."""

    def __init__(self, model: PreTrainedModel, encoder_name: str, decoder_name: str) -> None:
        self.decoder_name = decoder_name
        module, _, self._attribute = encoder_name.rpartition(".")
        self._encoder_module: nn.Module = model.get_submodule(module)
        self._encoder: Tensor = model.get_parameter(encoder_name)
        self._decoder: Tensor = model.get_parameter(decoder_name)
        if self._encoder.shape != self._decoder.shape:
            raise CheckpointError(
                f"expected {decoder_name} in the shape of {encoder_name}, to which it is tied, "
                f"{list(self._encoder.shape)}, found {list(self._decoder.shape)}"
            )

    def differs(self, loaded: set[int]) -> bool:
        """Whether the file holds both, with different values."""
        has_both = {id(self._encoder), id(self._decoder)} <= loaded
        return has_both and not torch.equal(self._encoder, self._decoder)

    @torch.no_grad()
    def tie(self, loaded: set[int]) -> None:
        """Give the encoder the parameter of the decoder, to which its head may be tied too."""
        if id(self._decoder) not in loaded:
            self._decoder.copy_(self._encoder)
        setattr(self._encoder_module, self._attribute, self._decoder)
