"""How many tokens and positions each side of a model has."""

import sys
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel


def source_vocab_size(model: PreTrainedModel) -> int:
    """Token ids that the encoder of a model knows."""
    encoder: Any = model.get_encoder()
    # FSMT's encoder is a bare module.
    embedded = encoder if isinstance(encoder, PreTrainedModel) else model
    try:
        weight: Any = embedded.get_input_embeddings().weight
    except NotImplementedError:  # CANINE hashes code points, and has no table of them
        return sys.maxunicode + 1
    return int(weight.shape[0])


def target_vocab_size(model: PreTrainedModel) -> int:
    """Logits of one step."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if isinstance(head, nn.Linear):
        return head.out_features
    return int(model.config.get_text_config(decoder=True).vocab_size)


def max_len(model: PreTrainedModel, side: Literal["encoder", "decoder"]) -> int | None:
    """Positions of one side; None where it counts them relatively."""
    config = getattr(model.config, side, model.config)
    names = (f"max_{side}_position_embeddings", "max_position_embeddings")
    positions = next((found for name in names if (found := getattr(config, name, None))), None)
    if not isinstance(positions, int):
        return None
    stack: Any = model.get_encoder() if side == "encoder" else model.get_decoder()  # type: ignore[no-untyped-call]
    return positions - _num_reserved_positions(stack)


def _num_reserved_positions(stack: nn.Module) -> int:
    """RoBERTa and its kin number positions from behind the pad token's id."""
    for name, module in stack.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0
