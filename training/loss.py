"""Label-smoothed cross entropy of an output layer, computed with its gradient in one go."""

from typing import Any

import torch
from torch import Tensor

# Rows of float32 logits alive at once: [rows, vocab] then stays in a CPU core's cache. Through
# autograd, which keeps several [num_targets, vocab] tensors, this loss was a third of a step.
_ROWS = 64


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Mean loss of `hidden @ weight.T + bias` against the gold tokens.

    The gradient with respect to the logits, softmax minus the smoothed target distribution, is
    known in the forward pass; it overwrites the logits, so that only one such tensor exists.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, gold: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        """See `smoothed_cross_entropy`."""
        num_targets, vocab = len(gold), len(weight)
        cast_weight = weight.to(hidden.dtype)
        grad_logits = hidden @ cast_weight.T
        loss = hidden.new_zeros((), dtype=torch.float32)
        nll = torch.zeros_like(loss)
        for start in range(0, num_targets, _ROWS):
            rows = grad_logits[start : start + _ROWS]
            targets = gold[start : start + _ROWS].unsqueeze(1)
            logits = rows.float().add_(bias)
            log_sum = logits.logsumexp(dim=-1, keepdim=True)
            gold_nll = (log_sum - logits.gather(1, targets)).sum()
            uniform_nll = (log_sum.squeeze(1) - logits.mean(dim=-1)).sum()
            nll += gold_nll
            loss += (1 - smoothing) * gold_nll + smoothing * uniform_nll
            probs = logits.sub_(log_sum).exp_().sub_(smoothing / vocab)
            probs.scatter_add_(1, targets, torch.full_like(log_sum, smoothing - 1))
            rows.copy_(probs.div_(num_targets))
        ctx.save_for_backward(hidden, cast_weight, grad_logits)
        return loss / num_targets, nll / num_targets

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the smoothed loss; the negative log-likelihood is for logs only."""
        hidden, cast_weight, grad_logits = ctx.saved_tensors
        scale = grads[0]
        return (
            (grad_logits @ cast_weight) * scale.to(hidden.dtype),
            (grad_logits.T @ hidden).float() * scale,
            grad_logits.sum(dim=0, dtype=torch.float32) * scale,
            None,
            None,
        )


def smoothed_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, gold: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """The label-smoothed loss and the plain negative log-likelihood, both means and float32.

    Args:
        hidden: [num_targets, hidden]; its dtype is that of the matrix products.
        weight: [vocab, hidden].
        bias: [vocab].
        gold: [num_targets], int64.
        smoothing: Share of the target distribution spread evenly over the vocabulary.
    """
    loss, nll = _SmoothedCrossEntropy.apply(  # type: ignore[no-untyped-call] # torch's own
        hidden, weight, bias, gold, smoothing
    )
    return loss, nll.detach()
