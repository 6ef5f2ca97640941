"""Does the decoder of an `EncoderDecoderModel` look at its source?"""

from typing import Any

import torch
from transformers import EncoderDecoderModel, PreTrainedModel

from model_core.errors import CheckpointError


@torch.inference_mode()
def check_cross_attention(model: PreTrainedModel) -> None:
    """Refuse a decoder whose answers would be the same for every source.

    The library takes any decoder that has a place for encoder outputs; whether it has
    cross-attention is up to the checkpoint's configuration.

    Raises:
        CheckpointError: It has none.
    """
    if not isinstance(model, EncoderDecoderModel):
        return
    decoder: Any = model.decoder
    hidden_size = getattr(decoder.config, "cross_attention_hidden_size", None)
    shape = (1, 1, hidden_size or decoder.config.hidden_size)
    sources = (torch.ones(shape), torch.linspace(-1, 1, shape[-1]).view(shape))
    try:
        logits = [
            decoder(
                input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device),
                encoder_hidden_states=source.to(model.device, model.dtype),
                use_cache=False,
                return_dict=True,  # else as the configuration says
            ).logits
            for source in sources
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"expected a decoder with cross-attention, found {type(decoder).__name__}: {error}"
        ) from error
    if torch.equal(*logits):
        raise CheckpointError(
            f"expected a decoder with cross-attention, found {type(decoder).__name__}, which "
            "passes over its source (add_cross_attention in the decoder part of config.json)"
        )
