"""What the families share: Hugging Face modules -> the parts of `model_core.decoder`."""

from typing import Any

from model_core.decoder import LayerNorm, Linear, RMSNorm


def linear(module: Any) -> Linear:
    """An `nn.Linear`, its weights shared."""
    return Linear(module.weight, module.bias)


def layer_norm(module: Any) -> LayerNorm:
    """An `nn.LayerNorm`."""
    return LayerNorm(module.weight, module.bias, module.eps)


def rms_norm(module: Any) -> RMSNorm:
    """A `T5LayerNorm`."""
    return RMSNorm(module.weight, module.variance_epsilon)
