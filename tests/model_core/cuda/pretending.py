"""A CPU that says it is a GPU: finds tensors that are not where the others are, without a GPU.

Tensors on it refuse to meet those of the host in one operation, as CUDA's do, and tell how often
the host looked at one of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
_aten = torch.ops.aten
_LOOKS = (_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.equal.default)
_INDEXES = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)


class OnDevice(Tensor):
    """A tensor of the pretended device, over one of the host."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "OnDevice":
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
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
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{function} outside of `pretended_device`")


class _Pretending(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.num_looks = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        tensors = [each for each in flat if isinstance(each, Tensor)]
        on_device = any(isinstance(each, OnDevice) for each in tensors)
        if function is _aten._fused_sdp_choice.default:
            return 0  # plain products: the fused ones are CUDA's own
        if function is _aten.pin_memory.default:
            return args[0]
        self.num_looks += on_device and function in _LOOKS
        wanted = [each for each in flat if isinstance(each, torch.device)]
        if wanted:
            on_device = wanted[0].type == "cuda"
        elif on_device and function is not _aten.copy_.default:
            _check_together(function, args, tensors)
        result = function(*tree_map(_host, args), **tree_map(_host, kwargs))
        if function is _aten.copy_.default:
            return args[0]
        if not on_device:
            return result
        own = {id(each.host): each for each in tensors if isinstance(each, OnDevice)}
        return tree_map(lambda each: _there(each, own), result)


def _check_together(function: Any, args: Any, tensors: list[Tensor]) -> None:
    if function in _INDEXES:  # indices may come from the host
        tensors = [args[0], *args[2:3]]
    for each in tensors:
        if not isinstance(each, OnDevice) and isinstance(each, Tensor) and each.dim() > 0:
            raise RuntimeError(f"{function}: expected all tensors on one device, found the host's")


def _host(each: Any) -> Any:
    if isinstance(each, torch.device):
        return torch.device("cpu")
    return each.host if isinstance(each, OnDevice) else each


def _there(each: Any, own: dict[int, OnDevice]) -> Any:
    if not isinstance(each, Tensor) or isinstance(each, OnDevice):
        return each
    known = own.get(id(each))
    return OnDevice(each) if known is None else known


@contextmanager
def pretended_device() -> Iterator[_Pretending]:
    """Within, "cuda" is a device; its tensors must not leave."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.cuda._lazy_init = lambda: None
    with _Pretending() as pretending:
        yield pretending
