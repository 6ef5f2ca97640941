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
    num_chunks = length // _CHUNK
    if num_chunks < max(_LEAST_CHUNKS, 2 * k):
        values, indices = rows.topk(k)
        return values, indices
    whole = num_chunks * _CHUNK
    maxima = rows[:, :whole].view(num_rows, num_chunks, _CHUNK).amax(2)
    chunks = maxima.topk(k, sorted=False).indices
    inside = torch.arange(_CHUNK, device=rows.device)
    indices = (chunks[:, :, None] * _CHUNK + inside).flatten(1)
    rest = torch.arange(whole, length, device=rows.device).expand(num_rows, -1)
    indices = torch.cat((indices, rest), dim=1)
    values, best = rows.gather(1, indices).topk(k)
    return values, indices.gather(1, best)
