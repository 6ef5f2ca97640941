"""Which continuations of the hypotheses of a pool are the best, as one step of its search asks."""

from typing import Protocol

import torch
from torch import Tensor

from model_core.top_k import first_max, top_k


class Ranking(Protocol):
    """What ranks logits, whose rows may lie further apart than they are long."""

    def log_sum_exp(self, rows: Tensor) -> Tensor:
        """What a log-softmax takes from every entry of a row: [..., vocab] -> [...], float32.

        NaN where an entry is not a number or infinite.
        """

    def best(
        self, scores: Tensor, normalizers: Tensor, live_scores: Tensor, num_best: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best continuations of each slot, in falling order; of equal ones the first.

        Args:
            scores: [num_slots, num_beams, vocab], of one more token.
            normalizers: [num_slots, num_beams], float32: what the scores of a row are too large by.
            live_scores: [num_slots, num_beams], float32: of each hypothesis so far.
            num_best: At most `num_beams * vocab`.

        Returns:
            Scores, rows within the slot and tokens, each [num_slots, num_best].
        """


class PlainRanking:
    """By plain torch, on a CPU."""

    def log_sum_exp(self, rows: Tensor) -> Tensor:
        """See `Ranking`."""
        return rows.float().logsumexp(-1)

    def best(
        self, scores: Tensor, normalizers: Tensor, live_scores: Tensor, num_best: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Ranking`."""
        vocab_size = scores.shape[2]
        totals = (scores.float() - normalizers[..., None]) + live_scores[..., None]
        totals = totals.flatten(1)
        if num_best == 1:
            flat = first_max(totals)[:, None]
            found = totals.gather(1, flat)
        else:
            found, flat = top_k(totals, num_best)
        return found, flat // vocab_size, flat % vocab_size


def ranking_on(device: torch.device) -> Ranking:
    """The fastest way to rank on a device."""
    return fused_ranking() if device.type == "cuda" else PlainRanking()


def fused_ranking() -> Ranking:
    """By the Triton kernels."""
    # Triton comes with torch's CUDA build; a CPU build has none.
    from model_core.cuda.ranking_kernel import FusedRanking

    return FusedRanking()
