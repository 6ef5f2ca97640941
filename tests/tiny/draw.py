"""Parameters drawn so that answers are worth comparing.

A freshly initialised tiny decoder soon repeats one token, whatever its source says; parity on such
answers proves little. So every parameter is drawn again from a seeded generator: matrices large
enough that attention is peaked and layers outweigh the residual, norms, biases and output biases
away from 1 and 0 so that a test notices when one is dropped, EOS likely enough to end answers at
different lengths. `assert_varied` states what that must achieve.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, GPT2LMHeadModel, PreTrainedModel

Builder = Callable[[], PreTrainedModel]

VOCAB = 128  # every token id below it can be detokenized
MAX_POSITIONS = 96
MAX_LENGTH = 40


@dataclass(frozen=True)
class Spread:
    """How widely the parameters of one architecture are drawn.

    Standard deviations; those of linear layers are times `1 / sqrt(fan_in)`.

    Attributes:
        seed: Of the generator that draws every parameter.
        token: Token embeddings, as the first layer sees them (after a model's own scaling).
        position: Position embeddings and relative biases.
        query: Query and key projections: larger means more peaked attention.
        value: Value and output projections of self-attention.
        cross: Value and output projections of cross-attention.
        feed_forward: Feed-forward layers and projections.
        bias: Biases of linear layers and norms.
        head: Output projection, where it is not tied.
        sharpness: Factor on the last norm before the output projection: scale of the logits.
        eos: Factor on the output row of EOS, and on its embedding where that is tied.
        eos_bias: Added to the output bias of EOS, where there is one.
    """

    seed: int = 0
    token: float = 0.7
    position: float = 0.7
    query: float = 2.0
    value: float = 1.0
    cross: float = 2.0
    feed_forward: float = 2.0
    bias: float = 0.2
    head: float = 1.0
    sharpness: float = 1.0
    eos: float = 1.6
    eos_bias: float = 0.0


_QUERY_NAMES = ("query", "key", "q_proj", "k_proj", "attention.q.", "attention.k.")


_TOKEN_NAMES = ("shared", "embed_tokens", "word_embeddings", "wte")


_CROSS_NAMES = ("cross", "encoder_attn", "encdecattention")


def _std(name: str, parameter: torch.Tensor, spread: Spread, embedding_scale: float) -> float:
    fan_in = math.sqrt(parameter.shape[-1])
    leaf = name.lower()

    def has(parts: Sequence[str]) -> bool:
        return any(part in leaf for part in parts)

    if has(("relative_attention_bias", "position", "wpe")):
        return spread.position
    if has(_TOKEN_NAMES):
        return spread.token / embedding_scale
    if has(("lm_head", "predictions.decoder")):
        return spread.head / fan_in
    if has(_QUERY_NAMES):
        return spread.query / fan_in
    if has(_CROSS_NAMES):
        return spread.cross / fan_in
    return (spread.value if "att" in leaf else spread.feed_forward) / fan_in


_LAST_NORMS = (
    "decoder.cls.predictions.transform.LayerNorm",
    "decoder.generator_predictions.LayerNorm",
    "decoder.lm_head.layer_norm",
    "decoder.transformer.ln_f",
    "model.decoder.layer_norm",
)


def _last_norm(model: PreTrainedModel) -> nn.Module:
    """The norm whose output the head (or the head's last linear layer) projects."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if model.config.model_type == "blenderbot-small":  # its embedding norm comes last by name
        modules = {name: module for name, module in modules.items() if "embedding" not in name}
    for name in _LAST_NORMS:
        if name in modules:
            return modules[name]
    decoder_norms = [
        module
        for name, module in modules.items()
        if "decoder" in name and "norm" in name.lower() and hasattr(module, "weight")
    ]
    return decoder_norms[-1]


@torch.no_grad()
def _draw(model: PreTrainedModel, spread: Spread) -> None:
    """Draw every parameter and output bias again; tied ones stay tied, sinusoids stay."""
    generator = torch.Generator().manual_seed(spread.seed)
    scaled = getattr(model.config, "scale_embedding", False)
    embedding_scale = model.config.hidden_size**0.5 if scaled else 1.0

    def normal(shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            continue
        if parameter.ndim > 1:
            std = _std(name, parameter, spread, embedding_scale)
            parameter.copy_(normal(parameter.shape) * std)
        else:
            is_norm = "norm" in name.lower() or "ln_" in name
            centre = 1.0 if is_norm and name.endswith("weight") else 0.0
            parameter.copy_(centre + normal(parameter.shape) * spread.bias)
    for name, buffer in sorted(model.named_buffers()):
        if name.endswith("final_logits_bias"):
            buffer.copy_(normal(buffer.shape))
    if not isinstance(model, GPT2LMHeadModel):
        for parameter in _last_norm(model).parameters():
            parameter.mul_(spread.sharpness * embedding_scale)


@torch.no_grad()
def _favour_eos(model: PreTrainedModel, spread: Spread) -> None:
    eos = model.generation_config.eos_token_id
    output: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if model.config.model_type == "fsmt":  # names its decoder's embeddings instead
        output = model.get_decoder().output_projection  # type: ignore[no-untyped-call]
    assert isinstance(output, nn.Linear)
    output.weight[eos] *= spread.eos
    if output.bias is not None:
        output.bias[eos] += spread.eos_bias
    if hasattr(model, "final_logits_bias"):
        bias = model.final_logits_bias
        assert isinstance(bias, torch.Tensor)
        bias[0, eos] += spread.eos_bias


def generation_defaults(**defaults: Any) -> GenerationConfig:
    return GenerationConfig(max_length=MAX_LENGTH, **defaults)  # type: ignore[no-untyped-call]


def finish(model: PreTrainedModel, spread: Spread, generation: GenerationConfig) -> PreTrainedModel:
    model.generation_config = generation
    _draw(model, spread)
    _favour_eos(model, spread)
    model.eval()  # type: ignore[no-untyped-call]
    return model
