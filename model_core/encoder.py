"""Sources through the checkpoint's own encoder: batched by length, cached by content."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from model_core.attention_mode import AttentionMode
from model_core.packing import packed_copy
from model_core.sizes import max_len, source_vocab_size
from model_core.transfer import to_device

SourceIds = tuple[int, ...]
GlobalAttention = Literal["none", "first"]
"""Which source tokens of LED or Longformer attend to all: none, or the first."""
Packing = Literal["none", "float", "int8"]
"""How the weights of linear layers are kept: as they are, packed, or packed as int8."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a source may still join a batch, whose sources come in order of length.

    Attributes:
        max_padding: Tokens by which its joining may pad the others: what a batch of its own costs.
        max_tokens: Of the whole batch, padding included.
    """

    max_padding: int
    max_tokens: int


CPU_BATCHES = BatchLimits(max_padding=16, max_tokens=1024)
"""Some hundred rows fill the matrix kernels of a processor: beyond, padding is only a loss."""
ACCELERATOR_BATCHES = BatchLimits(max_padding=4096, max_tokens=sys.maxsize)
"""To launch a pass takes as long as some thousand tokens in it, on an H200."""

_INT8_LENGTHS = 8
"""In int8 a source is padded to a multiple of this, whatever else is in its batch."""


class Encoder:
    """The encoder of a checkpoint, and the projection to the decoder's width if there is one.

    Args:
        model: The encoder-decoder as transformers loaded it.
        pad_token_id: Token for padding; some encoders derive positions from it.
        may_pad: See the attribute.
        global_attention: See `GlobalAttention`.
        packing: See `Packing`. The model itself, which others use, stays as it is.

    Attributes:
        vocab_size: Token ids that it knows.
        may_pad: Whether padding changes nothing but the last digits of a source's outputs.
        packing: As it was given.
        batch_limits: Of the batches that suit its device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_token_id: int,
        *,
        may_pad: bool = True,
        global_attention: GlobalAttention = "none",
        packing: Packing = "float",
    ) -> None:
        self.may_pad = may_pad
        self.packing = packing
        self._model = model
        self._module: Any = _packed(model.get_encoder(), packing)
        self._mode = AttentionMode(self._module)
        self._global_attention = global_attention
        projection = getattr(model, "enc_to_dec_proj", None)
        self._projection: Any = None if projection is None else _packed(projection, packing)
        self._device = model.device
        on_cpu = model.device.type == "cpu"
        self.batch_limits = CPU_BATCHES if on_cpu else ACCELERATOR_BATCHES
        self.vocab_size = source_vocab_size(model)
        self._max_len = max_len(model, "encoder") or sys.maxsize
        # Padding is masked, but a pair may pad its targets with a token that its encoder lacks.
        self._pad_token_id = pad_token_id if pad_token_id < self.vocab_size else 0

    def packed(self, packing: Packing) -> "Encoder":
        """The same with its weights kept in another way."""
        return Encoder(
            self._model,
            self._pad_token_id,
            may_pad=self.may_pad,
            global_attention=self._global_attention,
            packing=packing,
        )

    def batches(self, sources: Sequence[SourceIds]) -> list[list[SourceIds]]:
        """Split sources into batches in which each gets the outputs that it gets alone.

        As floats but for the last digits, and as int8 in all of them: there a last digit can become
        a whole step.
        """
        if self.may_pad and self.packing != "int8":
            return batch_by_length(sources, self.batch_limits)
        return batch_by_shape(sources, self.batch_limits.max_tokens, self._own_padded_len)

    def padded_len(self, batch: Sequence[SourceIds]) -> int:
        """Tokens to which each source of a batch is padded."""
        return max(self._own_padded_len(len(ids)) for ids in batch)

    def _own_padded_len(self, source_len: int) -> int:
        if self.packing != "int8" or not self.may_pad:
            return source_len
        # By one token at least: attention without a mask has other last digits.
        padded_len = (source_len // _INT8_LENGTHS + 1) * _INT8_LENGTHS
        return padded_len if padded_len <= self._max_len else source_len

    def __call__(self, sources: Sequence[SourceIds]) -> list[Tensor]:
        """Encode one padded batch; each result is [source_len, hidden]."""
        hidden = self.hidden_states(sources)
        if self._projection is not None:
            hidden = self._projection(hidden)
        return [hidden[row, : len(ids)] for row, ids in enumerate(sources)]

    def hidden_states(self, sources: Sequence[SourceIds]) -> Tensor:
        """What the encoder itself gives one padded batch, [num_sources, padded_len, hidden]."""
        longest = self.padded_len(sources)
        padded = [[*ids, *[self._pad_token_id] * (longest - len(ids))] for ids in sources]
        lengths = torch.tensor([len(ids) for ids in sources])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        input_ids = to_device(torch.tensor(padded), self._device)
        with self._mode.as_loaded(longest):
            outputs = self._module(
                input_ids=input_ids,
                attention_mask=to_device(mask, self._device),
                return_dict=True,
                **global_attention_arguments(input_ids, self._global_attention),
            )
        hidden: Tensor = outputs.last_hidden_state
        return hidden


def _packed(module: nn.Module, packing: Packing) -> nn.Module:
    return module if packing == "none" else packed_copy(module, int8=packing == "int8")


def global_attention_arguments(
    input_ids: Tensor, global_attention: GlobalAttention
) -> dict[str, Tensor]:
    """What an encoder, or `generate()`, gets besides sources `[num_sources, source_len]`."""
    if global_attention == "none":
        return {}
    mask = torch.zeros_like(input_ids)
    mask[:, 0] = 1
    return {"global_attention_mask": mask}


def batch_by_length(
    sources: Sequence[SourceIds], limits: BatchLimits = CPU_BATCHES
) -> list[list[SourceIds]]:
    """Split sources into batches of similar length: few, but with little padding.

    Args:
        sources: In any order.
        limits: Of each batch.
    """
    batches: list[list[SourceIds]] = []
    for ids in sorted(sources, key=len):
        batch = batches[-1] if batches else []
        padding = len(batch) * (len(ids) - len(batch[-1])) if batch else 0
        is_small = (len(batch) + 1) * len(ids) <= limits.max_tokens
        if batch and padding <= limits.max_padding and is_small:
            batch.append(ids)
        else:
            batches.append([ids])
    return batches


def batch_by_shape(
    sources: Sequence[SourceIds], max_tokens: int, padded_len: Callable[[int], int]
) -> list[list[SourceIds]]:
    """Split sources into batches in which all are as long as they are to be, padded or not.

    Args:
        sources: In any order.
        max_tokens: Of each batch, padding included.
        padded_len: Tokens to which a source of so many is padded.
    """
    by_shape: dict[tuple[int, bool], list[SourceIds]] = {}
    for ids in sources:
        length = padded_len(len(ids))
        by_shape.setdefault((length, length == len(ids)), []).append(ids)
    batches: list[list[SourceIds]] = []
    for (length, _), alike in by_shape.items():
        most = max(1, max_tokens // length)
        batches += [alike[first : first + most] for first in range(0, len(alike), most)]
    return batches


class EncoderOutputCache:
    """Encoder outputs by source, least recently used out first, bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._outputs: OrderedDict[SourceIds, Tensor] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return self._num_bytes

    def get(self, source_ids: SourceIds) -> Tensor | None:
        """Encoder outputs of a source, if they are here; makes it the most recently used."""
        outputs = self._outputs.get(source_ids)
        if outputs is not None:
            self._outputs.move_to_end(source_ids)
        return outputs

    def put(self, source_ids: SourceIds, outputs: Tensor) -> None:
        """Keep encoder outputs, [source_len, hidden]; larger than the whole bound: not kept."""
        if outputs.nbytes > self._max_bytes or source_ids in self._outputs:
            return
        # A copy: a view would keep the whole padded batch alive.
        self._outputs[source_ids] = outputs.clone()
        self._num_bytes += outputs.nbytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._outputs.popitem(last=False)
            self._num_bytes -= oldest.nbytes
