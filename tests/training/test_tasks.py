import pytest
import torch

from training.model import build_model
from training.tasks import TASKS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_every_preset_fits_into_40_megabytes_of_float16(task: str, preset: str) -> None:
    size = TASKS[task].presets[preset].size
    with torch.device("meta"):
        model = build_model(size, dropout=0.1)
    encoder_embeddings = size.vocab * size.hidden  # stored apart from the decoder's
    num_stored = sum(map(torch.Tensor.numel, model.parameters())) + encoder_embeddings
    assert 2 * num_stored < 39_900_000
