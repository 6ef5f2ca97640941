"""A residual connection and the layer normalisation behind it, in Triton: one pass over each row.

Runs under Triton's interpreter on a CPU, as `model_core.cuda.kernel` does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm_kernel(  # type: ignore[no-untyped-def]
    residual_ptr,
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    normed_ptr,
    eps,
    width,
    PADDED: tl.constexpr,  # noqa: N803
):
    """One row: the sum rounded as it is where it is kept, everything behind it in float32."""
    first = tl.program_id(0).to(tl.int64) * width
    places = tl.arange(0, PADDED)
    mask = places < width
    residual = tl.load(residual_ptr + first + places, mask=mask, other=0.0)
    hidden = tl.load(hidden_ptr + first + places, mask=mask, other=0.0)
    added = (residual.to(tl.float32) + hidden.to(tl.float32)).to(residual.dtype).to(tl.float32)
    centred = tl.where(mask, added - tl.sum(added, 0) / width, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    weight = tl.load(weight_ptr + places, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + places, mask=mask, other=0.0).to(tl.float32)
    normed = centred * scale * weight + bias
    tl.store(normed_ptr + first + places, normed.to(normed_ptr.dtype.element_ty), mask=mask)


def add_norm(residual: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`layer_norm(residual + hidden)`.

    Args:
        residual: [rows, width].
        hidden: The same.
        weight: [width].
        bias: [width].
        eps: Added to the variance.

    Returns:
        [rows, width].
    """
    num_rows, width = residual.shape
    residual, hidden = residual.contiguous(), hidden.contiguous()
    normed = torch.empty_like(residual)
    _add_norm_kernel[(num_rows,)](
        residual,
        hidden,
        weight,
        bias,
        normed,
        eps,
        width,
        PADDED=triton.next_power_of_2(width),
        num_warps=4,
    )
    return normed
