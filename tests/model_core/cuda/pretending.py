"""A CPU that says it is another device: finds tensors that are not where the others are.

Tensors on it refuse to meet those of the host in one operation, as a GPU's do. Needs no GPU, nor a
build of torch for one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
"""Of all devices the one that every build of torch knows, and on which nothing else here works."""
_aten = torch.ops.aten
_INDEXES = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)


class OnDevice(Tensor):
    """A tensor of the pretended device, over one of the host."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "OnDevice":
        made: Any = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=DEVICE,
        )
        made.host = host
        result: OnDevice = made
        return result

    def tolist(self) -> Any:
        return self.host.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{function} outside of `pretended_device`")


class _Pretending(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        flat, _ = tree_flatten((args, kwargs))
        tensors = [each for each in flat if isinstance(each, Tensor)]
        if function is _aten._fused_sdp_choice.default:
            return 0  # plain products, as on a device without kernels of its own
        is_there = any(isinstance(each, OnDevice) for each in tensors)
        wanted = [each for each in flat if isinstance(each, torch.device)]
        if wanted:
            is_there = wanted[0] == DEVICE
        elif is_there and function is not _aten.copy_.default:
            _check_together(function, args, tensors)
        result = function(*tree_map(_host, args), **tree_map(_host, kwargs))
        if function is _aten.copy_.default:
            return args[0]
        if not is_there:
            return result
        own = {id(each.host): each for each in tensors if isinstance(each, OnDevice)}
        return tree_map(lambda each: _there(each, own), result)


def _check_together(function: Any, args: Any, tensors: list[Tensor]) -> None:
    if function in _INDEXES:  # indices may come from the host
        tensors = [args[0], *args[2:3]]
    for each in tensors:
        if each.device != DEVICE and each.dim() > 0:
            raise RuntimeError(f"{function}: expected all tensors on one device, found the host's")


def _host(each: Any) -> Any:
    if isinstance(each, torch.device):
        return torch.device("cpu")
    if isinstance(each, Tensor) and each.device == DEVICE and not isinstance(each, OnDevice):
        assert each.numel() == 0, "its data are lost: made by `torch.tensor` in one go"
        return torch.empty(each.shape, dtype=each.dtype)
    return each.host if isinstance(each, OnDevice) else each


def _there(each: Any, own: dict[int, OnDevice]) -> Any:
    if not isinstance(each, Tensor) or isinstance(each, OnDevice):
        return each
    known = own.get(id(each))
    return OnDevice(each) if known is None else known


@contextmanager
def pretended_device() -> Iterator[None]:
    """Within, `DEVICE` is one; its tensors must not leave.

    Not for inference mode, which leaves operations whole that this would have to see in parts.
    """
    generator = torch.Generator
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            torch.no_grad(),
            patch("torch.Generator", lambda device="cpu": generator("cpu")),
            _Pretending(),  # type: ignore[no-untyped-call]
        ):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
