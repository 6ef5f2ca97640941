"""The one lean decoder stack: a single step for all running hypotheses.

What differs between families is data (see `model_core.families`), not code.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from model_core.cache import PositionBias
from model_core.key_values import CacheLayout
from model_core.packing import PackedWeight, pack

_Part = TypeVar("_Part")
_Kind = TypeVar("_Kind")
AddNorm = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""Residual, hidden states, weight, bias, eps -> layer normalisation of the sum."""


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight.T + bias`.

    Attributes:
        weight: [out, in].
        bias: [out].
        packed: The weight as the processor's kernels want it; see `model_core.packing`.
    """

    weight: Tensor
    bias: Tensor | None = None
    packed: PackedWeight | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out], in the weight's dtype."""
        if x.dtype != self.weight.dtype:
            x = x.to(self.weight.dtype)  # T5 keeps some weights in float32 in half precision
        if self.packed is None:
            return functional.linear(x, self.weight, self.bias)
        return self.packed(x, self.bias)

    @classmethod
    def fuse(cls, parts: Sequence["Linear"]) -> "Linear":
        """One product that gives the outputs of all parts side by side."""
        weight = torch.cat([part.weight for part in parts])
        biases = [part.bias for part in parts if part.bias is not None]
        if not biases:
            return cls(weight)
        if len(biases) != len(parts):
            raise ValueError("either all fused parts have a bias or none")
        return cls(weight, torch.cat(biases))

    def scaled(self, factor: float, num_outputs: int | None = None) -> "Linear":
        """Another one, whose first outputs, or all, are `factor` times as large."""
        weight, bias = (
            None if part is None else part.detach().clone() for part in (self.weight, self.bias)
        )
        assert weight is not None
        for part in (weight, bias):
            if part is not None:
                part[:num_outputs] *= factor
        return Linear(weight, bias)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalisation over the last dimension.

    Attributes:
        weight: [hidden].
        bias: [hidden].
        eps: Added to the variance.
        add_norm: The kernel of `of_sum`, where the device has one.
    """

    weight: Tensor
    bias: Tensor
    eps: float
    add_norm: AddNorm | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def of_sum(self, residual: Tensor, hidden: Tensor) -> Tensor:
        """Of `residual + hidden`, each [rows, hidden]."""
        if self.add_norm is None:
            return self(residual + hidden)
        return self.add_norm(residual, hidden, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """Root-mean-square normalisation as T5 does it: statistics in float32, no mean, no bias."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden], in the weight's dtype if that is half precision."""
        variance = x.float().pow(2).mean(-1, keepdim=True)
        normalised = x * torch.rsqrt(variance + self.eps)
        if self.weight.dtype in (torch.float16, torch.bfloat16):
            normalised = normalised.to(self.weight.dtype)
        return self.weight * normalised

    def of_sum(self, residual: Tensor, hidden: Tensor) -> Tensor:
        """Of `residual + hidden`, each [rows, hidden]."""
        return self(residual + hidden)


Norm = LayerNorm | RMSNorm
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Positions:
    """Absolute positions, learned or sinusoidal.

    Attributes:
        table: [num_positions, hidden].
        offset: Row of position 0.
        pad_token_id: Where set, this token, generated inside a target, takes row `pad_row`
            instead of its own (M2M100, RoBERTa).
        pad_row: See `pad_token_id`.
    """

    table: Tensor
    offset: int = 0
    pad_token_id: int | None = None
    pad_row: int = 0

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Position embeddings of `token_ids` at `positions`, both [rows]: [rows, hidden]."""
        rows = positions + self.offset
        if self.pad_token_id is not None:
            rows = rows.masked_fill(token_ids == self.pad_token_id, self.pad_row)
        return functional.embedding(rows, self.table)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Target tokens and their positions -> first hidden states.

    Attributes:
        tokens: [vocab, hidden].
        scale: Factor on the token embeddings.
        token_norm: Applied to the token embeddings alone (Blenderbot-small).
        positions: Absolute positions, if the decoder has them.
        token_type: [hidden], added to every token (BERT's first token type).
        norm: Applied to the sum, if the decoder does so.
        projection: To the width of the layers, where the embeddings are narrower (ELECTRA).
    """

    tokens: Tensor
    scale: float = 1.0
    token_norm: Norm | None = None
    positions: Positions | None = None
    token_type: Tensor | None = None
    norm: Norm | None = None
    projection: Linear | None = None

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """[rows], [rows] -> [rows, hidden]."""
        hidden = functional.embedding(token_ids, self.tokens)
        if self.scale != 1.0:
            hidden = hidden * self.scale
        if self.token_norm is not None:
            hidden = self.token_norm(hidden)
        if self.token_type is not None:
            hidden = hidden + self.token_type
        if self.positions is not None:
            hidden = hidden + self.positions(token_ids, positions)
        if self.norm is not None:
            hidden = self.norm(hidden)
        return hidden if self.projection is None else self.projection(hidden)


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Projections of one self-attention block.

    Attributes:
        query_key_value: The three projections fused.
        output: Projection of the context.
        norm: Before the block, or after its residual (`Decoder.norm_first`).
    """

    query_key_value: Linear
    output: Linear
    norm: Norm


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Projections of one cross-attention block.

    Attributes:
        query: Of the targets.
        key_value: The two projections of a source fused; they run once per source.
        output: Projection of the context.
        norm: See `SelfAttention`.
    """

    query: Linear
    key_value: Linear
    output: Linear
    norm: Norm


@dataclass(frozen=True, slots=True)
class FeedForward:
    """`down(activation(up(x)))`, or `down(activation(gate(x)) * up(x))` where there is a gate."""

    up: Linear
    down: Linear
    activation: Activation
    norm: Norm
    gate: Linear | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One layer: self-attention, cross-attention, feed-forward."""

    self_attention: SelfAttention
    cross_attention: CrossAttention
    feed_forward: FeedForward


@dataclass(frozen=True, slots=True)
class HeadTransform:
    """BERT's dense layer before the output projection."""

    dense: Linear
    activation: Activation
    norm: Norm

    def __call__(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]."""
        return self.norm(self.activation(self.dense(hidden)))


@dataclass(frozen=True, slots=True)
class Head:
    """Last hidden states -> logits.

    Attributes:
        output: [vocab, hidden] projection.
        transform: BERT's dense layer before it, if any.
        scale: Factor on the hidden states before the projection.
        num_padding: Outputs at the end that are no tokens.
    """

    output: Linear
    transform: HeadTransform | None = None
    scale: float = 1.0
    num_padding: int = 0

    @property
    def vocab_size(self) -> int:
        """Logits of one row."""
        return self.output.weight.shape[0] - self.num_padding

    def __call__(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, vocab]."""
        if self.transform is not None:
            hidden = self.transform(hidden)
        if self.scale != 1.0:
            hidden = hidden * self.scale
        logits = self.output(hidden)
        return logits[:, : self.vocab_size] if self.num_padding else logits

    def padded_to(self, multiple: int) -> "Head":
        """The same with as many outputs as a multiple; rows of logits lie so far apart then."""
        missing = -self.output.weight.shape[0] % multiple
        if not missing:
            return self
        weight, bias = self.output.weight, self.output.bias
        weight = functional.pad(weight, (0, 0, 0, missing))
        bias = None if bias is None else functional.pad(bias, (0, missing))
        return replace(self, output=Linear(weight, bias), num_padding=self.num_padding + missing)


class AttentionContext(Protocol):
    """The caches of a group of rows, as one step sees them."""

    @property
    def num_rows(self) -> int:
        """Hypotheses of the group."""

    def self_attention(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store key and value, attend; all [num_rows, num_heads, head_dim] -> [num_rows, -1]."""

    def cross_attention(self, layer: int, query: Tensor) -> Tensor:
        """Attend to the sources; [num_rows, num_heads, head_dim] -> [num_rows, -1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A decoder of any family.

    Attributes:
        embeddings: Tokens and positions -> hidden states.
        layers: The stack.
        head: Hidden states -> logits.
        num_heads: Attention heads, in self- and cross-attention.
        head_dim: Width of one head.
        attention_scale: Factor on the queries that is not in their projections' weights.
        norm_first: Norms stand before their blocks (pre-norm), not after the residual.
        final_norm: After the last layer, if there is one.
        position_biases: Relative-position biases of the self-attention: none, one shared by all
            layers, or one per layer.
    """

    embeddings: Embeddings
    layers: tuple[DecoderLayer, ...]
    head: Head
    num_heads: int
    head_dim: int
    attention_scale: float
    norm_first: bool
    final_norm: Norm | None = None
    position_biases: tuple[PositionBias, ...] = ()

    @property
    def vocab_size(self) -> int:
        """Logits of one row."""
        return self.head.vocab_size

    @property
    def cache_layout(self) -> CacheLayout:
        """Shape, type and place of what the caches hold."""
        weight = self.layers[0].self_attention.query_key_value.weight
        return CacheLayout(
            len(self.layers), self.num_heads, self.head_dim, weight.dtype, weight.device
        )

    def folded(self) -> "Decoder":
        """The same with the attention scale in the weights, where that changes no bit of a query.

        A power of two only moves exponents, and the least ones of float32 and bfloat16 are far off.
        """
        mantissa, _ = math.frexp(self.attention_scale)
        is_exact = mantissa == 0.5 and self.cache_layout.dtype in (torch.float32, torch.bfloat16)
        if not is_exact or self.attention_scale == 1.0:
            return self
        layers = tuple(_folded(layer, self.attention_scale) for layer in self.layers)
        return replace(self, layers=layers, attention_scale=1.0)

    def padded_to(self, multiple: int) -> "Decoder":
        """The same with as many outputs as a multiple; see `Head.num_padding`."""
        return replace(self, head=self.head.padded_to(multiple))

    def with_add_norm(self, add_norm: AddNorm) -> "Decoder":
        """The same with a kernel for layer normalisations behind residual connections."""
        return _replaced(self, LayerNorm, lambda norm: replace(norm, add_norm=add_norm))

    def packed(self, *, int8: bool = False) -> "Decoder":
        """The same with packed weights, where that is faster; as int8 if asked for."""
        return _replaced(
            self, Linear, lambda linear: replace(linear, packed=pack(linear.weight, int8=int8))
        )

    def project_sources(self, encoder_outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Cross-attention keys and values of source tokens, layer by layer.

        Args:
            encoder_outputs: [num_tokens, hidden], of any number of sources.

        Yields:
            Keys and values of a layer, each [num_tokens, num_heads, head_dim].
        """
        for layer in self.layers:
            projected = layer.cross_attention.key_value(encoder_outputs)
            keys, values = projected.view(-1, 2, self.num_heads, self.head_dim).unbind(1)
            yield keys, values

    def step(
        self, token_ids: Tensor, positions: Tensor, contexts: Sequence[AttentionContext]
    ) -> Tensor:
        """Logits of the next token of every row.

        Linear layers run over the rows of all contexts at once, attention context by context.

        Args:
            token_ids: [rows], the last token of each hypothesis.
            positions: [rows], its position in the target.
            contexts: Caches of consecutive runs of rows, in order.

        Returns:
            [rows, vocab].
        """
        hidden = self.embeddings(token_ids, positions)
        for index, layer in enumerate(self.layers):
            own, cross = layer.self_attention, layer.cross_attention
            self_attend = partial(self._self_attend, own, index, contexts)
            cross_attend = partial(self._cross_attend, cross, index, contexts)
            hidden = self._residual(hidden, own.norm, self_attend)
            hidden = self._residual(hidden, cross.norm, cross_attend)
            hidden = self._residual(hidden, layer.feed_forward.norm, layer.feed_forward)
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        return self.head(hidden)

    def _scaled(self, query: Tensor) -> Tensor:
        return query if self.attention_scale == 1.0 else query * self.attention_scale

    def _residual(self, hidden: Tensor, norm: Norm, block: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return hidden + block(norm(hidden))
        return norm.of_sum(hidden, block(hidden))

    def _self_attend(
        self,
        attention: SelfAttention,
        index: int,
        contexts: Sequence[AttentionContext],
        hidden: Tensor,
    ) -> Tensor:
        projected = attention.query_key_value(hidden).view(-1, 3, self.num_heads, self.head_dim)
        attended = [
            context.self_attention(
                index, self._scaled(rows[:, 0]), key=rows[:, 1], value=rows[:, 2]
            )
            for context, rows in zip(contexts, _split(projected, contexts), strict=True)
        ]
        return attention.output(_joined(attended))

    def _cross_attend(
        self,
        attention: CrossAttention,
        index: int,
        contexts: Sequence[AttentionContext],
        hidden: Tensor,
    ) -> Tensor:
        query = self._scaled(attention.query(hidden))
        query = query.view(-1, self.num_heads, self.head_dim)
        attended = [
            context.cross_attention(index, rows)
            for context, rows in zip(contexts, _split(query, contexts), strict=True)
        ]
        return attention.output(_joined(attended))


def _folded(layer: DecoderLayer, scale: float) -> DecoderLayer:
    own, cross = layer.self_attention, layer.cross_attention
    num_queries = own.query_key_value.weight.shape[0] // 3
    return replace(
        layer,
        self_attention=replace(own, query_key_value=own.query_key_value.scaled(scale, num_queries)),
        cross_attention=replace(cross, query=cross.query.scaled(scale)),
    )


def _replaced(part: _Part, kind: type[_Kind], change: Callable[[_Kind], _Kind]) -> _Part:
    """A part of a decoder in which everything of a kind is changed."""
    if isinstance(part, kind):
        return cast(_Part, change(part))
    if isinstance(part, tuple):
        return cast(_Part, tuple(_replaced(each, kind, change) for each in part))
    if not is_dataclass(part) or isinstance(part, type):
        return part
    parts = {each.name: _replaced(getattr(part, each.name), kind, change) for each in fields(part)}
    return replace(part, **parts)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)  # cat copies even a single one


def _split(rows: Tensor, contexts: Sequence[AttentionContext]) -> Sequence[Tensor]:
    if len(contexts) == 1:
        return [rows]
    return torch.split(rows, [context.num_rows for context in contexts])
