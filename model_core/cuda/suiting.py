"""A decoder as a GPU's kernels want it."""

import torch

from model_core.decoder import Decoder

_OUTPUTS = 8
"""Tensor cores write so many outputs of half precision at a time.

With any other number, and few vocabularies have a multiple, cuBLAS takes a kernel that reads and
writes entry by entry: 343 us for 58,101 tokens of 512 rows on an H200, where the bytes take 28.
"""


def suited(decoder: Decoder) -> Decoder:
    """The same decoder for the device that it is on."""
    return fused(decoder) if decoder.cache_layout.device.type == "cuda" else decoder


def fused(decoder: Decoder) -> Decoder:
    """The same decoder for a GPU."""
    # Triton comes with torch's CUDA build; a CPU build has none.
    from model_core.cuda.norm_kernel import add_norm

    if decoder.cache_layout.dtype in (torch.bfloat16, torch.float16):
        decoder = decoder.padded_to(_OUTPUTS)
    return decoder.with_add_norm(add_norm)
