"""Attention of all hypotheses of a group over its slots: every key is read once for all beams."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_core.key_values import KeyValues


def attend(query: Tensor, entries: KeyValues, biases: Sequence[Tensor], layer: int) -> Tensor:
    """Attention of one layer over keys and values.

    Plain batched products: with a few query rows per slot and a mask they beat the fused CPU
    kernel of `scaled_dot_product_attention`.

    Args:
        query: [num_slots, num_beams, num_heads, head_dim], scaled already.
        entries: Keys and values, each [num_layers, num_slots, num_heads, entries, head_dim].
        biases: [num_slots * num_heads, num_beams, entries], one for all layers or one for each.
        layer: Which to read.

    Returns:
        Context, [num_slots * num_beams, num_heads * head_dim].
    """
    num_slots, num_beams, num_heads, head_dim = query.shape
    rows = query.transpose(1, 2).reshape(num_slots * num_heads, num_beams, head_dim)
    keys, values = entries.heads_by_layer[layer]
    # Keys first: the other way round the library reorders all of them for its few query rows.
    logits = biases[layer % len(biases)] + torch.bmm(keys, rows.mT).mT
    context = torch.bmm(torch.softmax(logits, dim=2), values)
    context = context.view(num_slots, num_heads, num_beams, head_dim).transpose(1, 2)
    return context.reshape(num_slots * num_beams, num_heads * head_dim)
