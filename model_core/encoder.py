"""Sources through the checkpoint's own encoder: batched by length, cached by content."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

SourceIds = tuple[int, ...]

_MAX_PADDING_RATIO = 1.25
"""A source joins a batch if padding it costs at most a quarter more (or a few tokens)."""
_FREE_PADDING = 8


class Encoder:
    """The encoder of a checkpoint, and the projection to the decoder's width if there is one.

    Args:
        model: The encoder-decoder as transformers loaded it.
        pad_token_id: Token for padding; some encoders derive positions from it.

    Attributes:
        vocab_size: Token ids that it knows.
    """

    def __init__(self, model: PreTrainedModel, pad_token_id: int) -> None:
        self._module: Any = model.get_encoder()
        self._projection: Any = getattr(model, "enc_to_dec_proj", None)
        self._device = model.device
        embeddings = self._module.get_input_embeddings()
        self.vocab_size: int = embeddings.num_embeddings
        # Padding is masked, but a pair may pad its targets with a token that its encoder lacks.
        self._pad_token_id = pad_token_id if pad_token_id < self.vocab_size else 0

    def __call__(self, sources: Sequence[SourceIds]) -> list[Tensor]:
        """Encode one padded batch; each result is [source_len, hidden]."""
        longest = max(map(len, sources))
        padded = [[*ids, *[self._pad_token_id] * (longest - len(ids))] for ids in sources]
        lengths = torch.tensor([len(ids) for ids in sources])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        outputs = self._module(
            input_ids=torch.tensor(padded, device=self._device),
            attention_mask=mask.to(self._device),
            return_dict=True,
        )
        hidden = outputs.last_hidden_state
        if self._projection is not None:
            hidden = self._projection(hidden)
        return [hidden[row, : len(ids)] for row, ids in enumerate(sources)]


def batch_by_length(sources: Sequence[SourceIds]) -> list[list[SourceIds]]:
    """Split sources into batches of similar length, so that little is spent on padding."""
    batches: list[list[SourceIds]] = []
    for ids in sorted(sources, key=len):
        shortest = len(batches[-1][0]) if batches else 0
        if batches and len(ids) <= shortest * _MAX_PADDING_RATIO + _FREE_PADDING:
            batches[-1].append(ids)
        else:
            batches.append([ids])
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
