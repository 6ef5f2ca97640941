"""Which continuations of the hypotheses of a pool are the best, as one step of its search asks."""

from typing import Protocol

import torch
from torch import Tensor

from model_core.search import Ranked
from model_core.top_k import first_max, top_k


class Ranking(Protocol):
    """What ranks logits, whose rows may lie further apart than they are long."""

    def log_sum_exp(self, rows: Tensor) -> Tensor:
        """What a log-softmax takes from every entry of a row: [..., vocab] -> [...], float32.

        Not finite where an entry is not a number or plus infinity, or all are minus infinity.
        """

    def best(
        self, logits: Tensor, normalizers: Tensor, live_scores: Tensor, num_best: int
    ) -> Ranked:
        """The best continuations of each slot, in falling order; of equal ones the first.

        Args:
            logits: [num_slots, num_beams, vocab].
            normalizers: [num_slots, num_beams], float32: what the logits of a row are too large by.
            live_scores: [num_slots, num_beams], float32: of each hypothesis so far.
            num_best: At most `num_beams * vocab`.

        Returns:
            See `Ranked`; each [num_slots, num_best].
        """


class PlainRanking:
    """By plain torch, on a CPU."""

    def log_sum_exp(self, rows: Tensor) -> Tensor:
        """See `Ranking`."""
        return rows.float().logsumexp(-1)

    def best(
        self, logits: Tensor, normalizers: Tensor, live_scores: Tensor, num_best: int
    ) -> Ranked:
        """See `Ranking`."""
        vocab_size = logits.shape[2]
        scores = (logits.float() - normalizers[..., None]) + live_scores[..., None]
        scores = scores.flatten(1)
        if num_best == 1:
            flat = first_max(scores)[:, None]
            found = scores.gather(1, flat)
        else:
            found, flat = top_k(scores, num_best)
        return found, flat // vocab_size, flat % vocab_size


def ranking_on(device: torch.device) -> Ranking:
    """The fastest way to rank on a device."""
    return fused_ranking() if device.type == "cuda" else PlainRanking()


def fused_ranking() -> Ranking:
    """By the Triton kernels."""
    # Triton comes with torch's CUDA build; a CPU build has none.
    from model_core.cuda.ranking_kernel import FusedRanking

    return FusedRanking()
