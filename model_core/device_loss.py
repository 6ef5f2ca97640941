"""CUDA errors after which a process can use its device no more."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from model_core.errors import DeviceLostError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def telling_device_loss(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A method of a runner that raises `DeviceLostError` where its device is lost.

    Most CUDA errors are sticky: every later call fails as well, whoever makes it. To look for the
    request at fault would blame them all.
    """

    @functools.wraps(function)
    def telling(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except torch.AcceleratorError as error:
            try:
                torch.accelerator.synchronize()
            except torch.AcceleratorError:
                raise DeviceLostError(f"the device is lost: {error}") from error
            raise

    return telling
