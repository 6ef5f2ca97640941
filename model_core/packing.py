"""Weights as the processor's matrix kernels want them (oneDNN): in their order, or as int8.

A plain product of matrices orders its weights anew each time, which for the few rows of a decoder
step takes longer than the product. Packed once, they stay: it costs their memory a second time.

As int8 a weight has one scale for each output and an activation has one for each row, taken from
that row alone, so that a row's outputs do not depend, not even in their last bit, on what else is
in the batch: integers are summed, and what follows is done to each row in the same way.
"""

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_DTYPES = (torch.float32, torch.bfloat16)
_ROWS_HINT = 64  # the order hardly depends on it
_MIN_SINGLE_ROW_SIZE = 1 << 20
"""A single row is faster times a smaller weight that is not packed."""
_MAX_MANY_ROWS_OUTPUTS = 4096
_MANY_ROWS = 64
"""For each thread: from about here on MKL is faster where there is AVX2 alone, by up to a quarter.

Up to a number of outputs: it orders the weight in each call, and a wide one for too few rows.
"""

_MAX_STEP = 127
_MAX_STEP_IN_16_BITS = 64
"""Largest step of a weight, two of which times the largest unsigned byte make less than 2**15."""
_POINTWISE = ([1, 1], [0, 0], [1, 1], 1)
"""A convolution over one pixel: its stride, padding, dilation and groups."""
_FLOAT_OUTPUT: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
"""Scale, zero point and dtype of what a kernel gives, and nothing after it."""
_ZERO_POINT = 128  # of unsigned bytes, for which processors have instructions
_ROUNDER = 1.5 * 2**23 + _ZERO_POINT
"""A float32 plus this is rounded to a whole number, whose lowest byte is the float's own."""
_LARGEST_STEP = torch.tensor(float(_MAX_STEP))
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class PackedFloat:
    """A float32 or bfloat16 weight in the order in which the processor reads it.

    Attributes:
        packed: [out, in], in an order of oneDNN's.
        plain: As the checkpoint has it.
        suits_one_row: Whether the plain one is faster for a single row.
        suits_many_rows: Whether it is for `_MANY_ROWS` for each thread, and more.
    """

    packed: Tensor
    plain: Tensor
    suits_one_row: bool
    suits_many_rows: bool

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`x @ weight.T + bias`: [rows, in] -> [rows, out]."""
        num_rows = x.shape[0]
        are_many = num_rows >= _MANY_ROWS * torch.get_num_threads()
        if (self.suits_one_row and num_rows == 1) or (self.suits_many_rows and are_many):
            return functional.linear(x, self.plain, bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, bias, "none", [], "")
        return product

    @classmethod
    def of(cls, weight: Tensor) -> "PackedFloat":
        """From a weight, [out, in]."""
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS_HINT)
        return cls(
            packed,
            weight,
            suits_one_row=weight.numel() < _MIN_SINGLE_ROW_SIZE,
            suits_many_rows=_has_better_mkl(weight.dtype)
            and weight.shape[0] <= _MAX_MANY_ROWS_OUTPUTS,
        )


@dataclass(frozen=True, slots=True)
class PackedInt8:
    """A weight as int8, with one scale for each output.

    Attributes:
        packed: In the order of the kernel that takes it.
        scales: [out], float32: of the weight, divided by the largest step of an activation.
        zero_points: [out], int64, zeros.
        offsets: [out], float32, for the kernel of convolutions: take back what the zero point of
            activations adds to a row. Added in float32, in the same way for any number of rows.
        rounder: [in], `_ROUNDER` for each input.
    """

    packed: Tensor
    scales: Tensor
    zero_points: Tensor
    offsets: Tensor | None
    rounder: Tensor

    @property
    def is_convolution(self) -> bool:
        """Whether it is for a convolution over one pixel, the same product as a linear layer's."""
        return self.offsets is not None

    @classmethod
    def quantised(cls, weight: Tensor) -> "PackedInt8":
        """From a weight, [out, in]: the nearest steps, symmetric about zero."""
        is_exact = sums_are_exact()
        max_step = _MAX_STEP if is_exact else _MAX_STEP_IN_16_BITS
        steps_per_unit = max_step / _peaks(weight).clamp_min_(_TINY)
        steps = (weight * steps_per_unit).round_().to(torch.int8)
        scales = (1 / (steps_per_unit * _MAX_STEP)).flatten()
        # Without VNNI the kernel of linear layers packs the weight anew in each call, and sums it
        # for the zero point. That of convolutions keeps it as it is packed here.
        return cls.of_steps(steps, scales, is_convolution=not is_exact)

    @classmethod
    def of_steps(cls, steps: Tensor, scales: Tensor, *, is_convolution: bool) -> "PackedInt8":
        """From whole steps, [out, in], int8, for one of the kernels; see `is_convolution`."""
        zero_points = torch.zeros(len(steps), dtype=torch.int64)
        rounder = torch.full((steps.shape[1],), _ROUNDER)
        if not is_convolution:
            packed = torch.ops.onednn.qlinear_prepack(steps, None)
            return cls(packed, scales, zero_points, None, rounder)
        pixel = steps[:, :, None, None]
        packed = torch.ops.onednn.qconv_prepack(pixel, scales, 1.0, 0, *_POINTWISE, None)
        offsets = -_ZERO_POINT * scales * steps.sum(dim=1)
        return cls(packed, scales, zero_points, offsets, rounder)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """About `x @ weight.T + bias`: [rows, in] -> [rows, out], float32."""
        steps, peaks = self._quantise(x)
        product = self._product(steps)
        if bias is None:
            return product.mul_(peaks)
        return torch.addcmul(bias, product, peaks, out=product)

    def _quantise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unsigned bytes about `_ZERO_POINT`, [rows, in], and the peak of each row, [rows, 1].

        In few operations, each of which costs as much as the arithmetic of some rows. The
        conversion of integers keeps their lowest byte, and is several times as fast as that of
        floats to bytes. A row that is not finite has no finite peak, and so no finite outputs; one
        of zeros gives any steps, times a peak of zero.
        """
        peaks = _peaks(x)
        rounded = torch.addcmul(self.rounder, x, torch.div(_LARGEST_STEP, peaks))
        return rounded.view(torch.int32).to(torch.uint8), peaks

    def _product(self, steps: Tensor) -> Tensor:
        """`steps`: unsigned bytes about `_ZERO_POINT`, [rows, in] -> [rows, out], float32.

        As if the peak of each row were 1. Each call has one scale for all rows; theirs follow.
        """
        weight = (self.packed, self.scales, self.zero_points, self.offsets)
        if not self.is_convolution:
            product: Tensor = torch.ops.onednn.qlinear_pointwise.default(
                steps, 1.0, _ZERO_POINT, *weight, *_FLOAT_OUTPUT
            )
            return product
        # Rows are the pixels of one image, whose channels lie side by side.
        num_rows, num_inputs = steps.shape
        pixels = steps.view(1, 1, num_rows, num_inputs).permute(0, 3, 1, 2)
        product = torch.ops.onednn.qconv_pointwise.default(
            pixels, 1.0, 0, *weight, *_POINTWISE, *_FLOAT_OUTPUT
        )
        return product.permute(0, 2, 3, 1).view(num_rows, len(self.scales))


PackedWeight = PackedFloat | PackedInt8


@cache
def sums_are_exact() -> bool:
    """Whether int8 products of full steps are summed without loss on this processor.

    Without instructions for that (VNNI), two products are added in 16 bits, which do not hold the
    largest ones and stay at the bound. So the largest ones are tried.
    """
    num_inputs = 64
    steps = torch.full((64, num_inputs), _MAX_STEP, dtype=torch.int8)
    weight = PackedInt8.of_steps(steps, torch.full((64,), 1 / _MAX_STEP**2), is_convolution=False)
    sums = [weight(torch.ones(num_rows, num_inputs), None) for num_rows in (1, 64)]
    return all(bool(torch.allclose(each, torch.full((), float(num_inputs)))) for each in sums)


def _has_better_mkl(dtype: torch.dtype) -> bool:
    """Whether products of many rows are faster with MKL than with oneDNN."""
    has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    is_avx2 = torch.backends.cpu.get_cpu_capability() == "AVX2"
    return bool(has_mkl and is_avx2) and dtype == torch.float32


def has_packed_kernels(device: torch.device) -> bool:
    """Whether there are kernels that take weights on a device packed, as int8 at least."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return device.type == "cpu" and has_onednn


def pack(weight: Tensor, *, int8: bool = False) -> PackedWeight | None:
    """A weight, [out, in], packed; None where nothing is gained, or no kernel takes it so."""
    if weight.dtype not in _DTYPES or not has_packed_kernels(weight.device):
        return None
    if int8:
        return PackedInt8.quantised(weight.detach().float())
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None  # as with AVX2 alone, where packing it would raise
    return PackedFloat.of(weight)


def _peaks(rows: Tensor) -> Tensor:
    """Largest magnitude of each row, [rows, 1]."""
    return rows.abs().amax(dim=1, keepdim=True)


class PackedLinear(nn.Module):
    """An `nn.Linear` with its weight packed; the plain one stays where library code reads it."""

    def __init__(self, linear: nn.Linear, packed: PackedWeight) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self._packed = packed

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        rows = self._packed(x.reshape(x.shape[:-1].numel(), x.shape[-1]), self.bias)
        return rows.view(*x.shape[:-1], rows.shape[1])


def packed_copy(module: nn.Module, *, int8: bool = False) -> nn.Module:
    """A module with packed linear layers, which shares every parameter with the given one."""
    shared: dict[int, object] = {id(each): each for each in module.parameters()}
    shared |= {id(each): each for each in module.buffers()}
    for each in module.modules():
        if type(each) is nn.Linear and (packed := pack(each.weight, int8=int8)) is not None:
            shared[id(each)] = PackedLinear(each, packed)
    # What is in the memo is taken as it is, in place of a copy.
    return copy.deepcopy(module, shared)
