"""Which device to compute on."""

import torch


def resolve_device(name: str) -> torch.device:
    """The device meant by `--device`; "auto" takes the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
