"""Weights in the order in which the processor's matrix kernels read them (oneDNN).

A plain product of matrices orders its weights anew each time, which for the few rows of a decoder
step takes longer than the product. Packed once, they stay: it costs their memory a second time.
"""

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16)
_ROWS_HINT = 64  # the order hardly depends on it


def pack(weight: Tensor) -> Tensor | None:
    """A weight, [out, in], packed; None where nothing is gained."""
    is_fit = weight.device.type == "cpu" and weight.dtype in _DTYPES
    if not is_fit or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS_HINT)
    return packed


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias`: [rows, in] -> [rows, out]."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product
