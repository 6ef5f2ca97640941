"""Attention of all hypotheses of a group over its slots: every key is read once for all beams."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_core.key_values import KeyValues


def attend(
    query: Tensor,
    blocks: Sequence[KeyValues],
    biases: Sequence[Sequence[Tensor]],
    layer: int,
) -> Tensor:
    """Attention of one layer over blocks of keys and values.

    Plain batched products: with a few query rows per slot and a mask they beat the fused CPU
    kernel of `scaled_dot_product_attention`.

    Args:
        query: [num_slots, num_beams, num_heads, head_dim], scaled already.
        blocks: Keys and values, each [num_layers, num_slots, num_heads, entries, head_dim].
        biases: Per block, [num_slots * num_heads, num_beams, entries], for all layers or for each.
        layer: Layer of the blocks to read.

    Returns:
        Context, [num_slots * num_beams, num_heads * head_dim].
    """
    num_slots, num_beams, num_heads, head_dim = query.shape
    rows = query.transpose(1, 2).reshape(num_slots * num_heads, num_beams, head_dim)
    entries = [block.heads_by_layer[layer] for block in blocks]
    # Keys first: the other way round the library reorders all of them for its few query rows.
    logits = [
        of_layers[layer % len(of_layers)] + torch.bmm(keys, rows.mT).mT
        for (keys, _), of_layers in zip(entries, biases, strict=True)
    ]
    weights = torch.softmax(logits[0] if len(logits) == 1 else torch.cat(logits, dim=2), dim=2)

    parts = torch.split(weights, [part.shape[2] for part in logits], dim=2)
    context = torch.bmm(parts[0], entries[0][1])
    for part, (_, values) in zip(parts[1:], entries[1:], strict=True):
        context = torch.baddbmm(context, part, values)
    context = context.view(num_slots, num_heads, num_beams, head_dim).transpose(1, 2)
    return context.reshape(num_slots * num_beams, num_heads * head_dim)
