"""The largest entries of long rows, in two stages."""

import torch
from torch import Tensor

_CHUNK = 64
_LEAST_CHUNKS = 64
"""Of a row that is worth two stages."""


def top_k(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest entries of each row, in falling order, as `torch.topk` gives them.

    The largest entries of a row lie in those of its chunks that have the largest maxima, and maxima
    are one quick pass; `torch.topk` alone takes several times as long. Which of two equal entries
    comes first may differ from its choice, but depends on nothing outside the row.

    Args:
        rows: [num_rows, length].
        k: At most `length`.

    Returns:
        Values and indices, each [num_rows, k].
    """
    num_rows, length = rows.shape
    if length // _CHUNK < max(_LEAST_CHUNKS, 2 * k):
        values, indices = rows.topk(k)
        return values, indices
    chunked = _chunked(rows)
    whole = chunked.shape[1] * _CHUNK
    chunks = chunked.amax(2).topk(k, sorted=False).indices
    inside = torch.arange(_CHUNK, device=rows.device)
    indices = (chunks[:, :, None] * _CHUNK + inside).flatten(1)
    rest = torch.arange(whole, length, device=rows.device).expand(num_rows, -1)
    indices = torch.cat((indices, rest), dim=1)
    values, best = rows.gather(1, indices).topk(k)
    return values, indices.gather(1, best)


def first_max(rows: Tensor) -> Tensor:
    """Where the largest entry of each row is, the first of equals, as `torch.argmax` gives it.

    Args:
        rows: [num_rows, length].

    Returns:
        Indices, [num_rows].
    """
    if rows.shape[1] // _CHUNK < _LEAST_CHUNKS:
        return rows.argmax(1)
    chunked = _chunked(rows)
    maxima = chunked.amax(2)
    chunks = maxima.argmax(1, keepdim=True)
    inside = chunked.gather(1, chunks[:, :, None].expand(-1, -1, _CHUNK))[:, 0].argmax(1)
    found = chunks[:, 0] * _CHUNK + inside
    whole = chunked.shape[1] * _CHUNK
    if whole == rows.shape[1]:
        return found
    rest = rows[:, whole:].max(1)
    return torch.where(rest.values > maxima.amax(1), whole + rest.indices, found)


def _chunked(rows: Tensor) -> Tensor:
    """[num_rows, length] -> [num_rows, num_chunks, chunk], without the rest of each row."""
    num_chunks = rows.shape[1] // _CHUNK
    return rows[:, : num_chunks * _CHUNK].view(len(rows), num_chunks, _CHUNK)
