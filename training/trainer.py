"""One training run: weights, their average, the optimizer, and the file they resume from."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import EncoderDecoderModel

from training.data import Example, collate
from training.model import training_loss
from training.tasks import Preset

STATE_FILE = "state.pt"

_Tensors = tuple[Tensor, ...] | list[Tensor]

_LABEL_SMOOTHING = 0.1
_MAX_GRAD_NORM = 1.0


@dataclass
class Progress:
    """Where a run stands; saved with the weights.

    `batches_done` counts within the epoch, of which it is the share `epoch_share`.
    """

    step: int = 0
    epoch: int = 0
    batches_done: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    elapsed_s: float = 0.0
    epoch_share: float = 0.0

    @property
    def epochs_seen(self) -> float:
        """Passes over the training pairs."""
        return self.epoch + self.epoch_share


def _warmed_up_average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """An exponential moving average that looks less far back while the run is young.

    With a fixed decay the random first weights would spoil the average for thousands of steps.
    """

    def update(averaged: _Tensors, current: _Tensors, num_averaged: Tensor | int) -> None:
        count = int(num_averaged)
        torch._foreach_lerp_(averaged, current, 1.0 - min(decay, (1 + count) / (10 + count)))

    return torch.no_grad()(update)


class Trainer:
    """Owns what a step changes, and the state file in `folder`."""

    def __init__(
        self,
        preset: Preset,
        model: EncoderDecoderModel,
        *,
        warm_names: set[str],
        device: torch.device,
        folder: Path,
    ) -> None:
        self.preset = preset
        self.model = model.to(device)  # type: ignore[arg-type]
        self.device = device
        self.folder = folder
        self.progress = Progress()
        # A step runs wholly in bfloat16 on a copy of the float32 weights: autocast would spend a
        # third of the time on moving activations between the two.
        self._working = copy.deepcopy(self.model).to(torch.bfloat16).train()
        self.averaged: AveragedModel = AveragedModel(
            self.model,
            multi_avg_fn=_warmed_up_average(preset.ema_decay),
        )
        warm = [p for name, p in self.model.named_parameters() if name in warm_names]
        cold = [p for name, p in self.model.named_parameters() if name not in warm_names]
        self._peak_lrs = [preset.peak_lr, preset.warm_lr]
        self.optimizer = torch.optim.AdamW(
            [{"params": cold}, {"params": warm}],
            lr=preset.peak_lr,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=True,
        )

    def step(self, examples: list[Example], *, spent: float) -> float:
        """Train on one batch; returns its mean negative log-likelihood per target token.

        Args:
            examples: The batch.
            spent: Share of the training budget that is used up, from which the learning rate
                follows: warm-up by steps, then linearly to zero at 1.
        """
        batch = collate(examples)
        progress = self.progress
        factor = min(1.0, (progress.step + 1) / self.preset.warmup_steps) * (1.0 - spent)
        for group, peak_lr in zip(self.optimizer.param_groups, self._peak_lrs, strict=True):
            group["lr"] = peak_lr * factor
        loss, nll = training_loss(
            self._working, batch.to(self.device), label_smoothing=_LABEL_SMOOTHING
        )
        loss.backward()  # type: ignore[no-untyped-call]
        self._take_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._refresh_working_copy()
        self.averaged.update_parameters(self.model)
        progress.step += 1
        progress.batches_done += 1
        progress.source_tokens += int(batch.source_mask.sum())
        progress.target_tokens += int((batch.labels >= 0).sum())
        return float(nll)

    def _take_gradients(self) -> None:
        for parameter, working in zip(
            self.model.parameters(), self._working.parameters(), strict=True
        ):
            if working.grad is not None:  # the encoder's pooler takes no part
                parameter.grad = working.grad.float()
                working.grad = None

    def _refresh_working_copy(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(list(self._working.parameters()), list(self.model.parameters()))

    def save(self) -> None:
        """Write the state; a crash while writing leaves the previous one intact."""
        state = {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        partial = self.folder / f"{STATE_FILE}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / STATE_FILE)

    def resume(self) -> bool:
        """Load the saved state of this run; False where there is none."""
        path = self.folder / STATE_FILE
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        self._refresh_working_copy()
        return True
