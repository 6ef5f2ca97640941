import pytest
import torch
from torch.nn import functional

from training.loss import smoothed_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_torch(smoothing: float) -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(150, 8), torch.randn(50, 8), torch.randn(50)
    gold = torch.randint(50, (150,))
    inputs = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    logits = hidden @ weight.T + bias
    reference = functional.cross_entropy(logits, gold, label_smoothing=smoothing)

    loss, nll = smoothed_cross_entropy(hidden, weight, bias, gold, smoothing)

    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(nll, functional.cross_entropy(logits, gold).detach())
    torch.testing.assert_close(
        torch.autograd.grad(2 * loss, inputs), torch.autograd.grad(2 * reference, inputs)
    )
