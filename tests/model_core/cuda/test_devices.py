"""Is everything where the others are? Found without a GPU, on a device that is pretended."""

import copy
from inspect import unwrap

import pytest
import torch

from model_core.batching import may_pad
from model_core.cuda.checking import PoolSteps
from model_core.encoder import Encoder
from model_core.families import find_family
from model_core.self_check import check_decoder, is_padding_harmless
from tests.lean import load_lean
from tests.model_core.cuda.pretending import DEVICE, pretended_device


@pytest.mark.parametrize("name", ["bart", "bert2bert", "m2m100", "t5"])
def test_the_self_check_has_everything_on_one_device(name: str) -> None:
    lean = load_lean(name)
    pad_token_id = lean.defaults.pad_token_id
    with pretended_device():
        model = copy.deepcopy(lean.model)
        model.to(DEVICE)  # type: ignore[arg-type]
        family = find_family(model)
        assert family is not None
        encoder = Encoder(model, pad_token_id, may_pad=may_pad(model))
        assert unwrap(is_padding_harmless)(encoder, pad_token_id)
        check = unwrap(check_decoder)(
            model,
            family[1](model),
            encoder,
            vocab_size=lean.vocab,
            pad_token_id=pad_token_id,
            decoder_start_token_id=lean.defaults.decoder_start_token_id,
            steps_of=PoolSteps,
        )
    assert check.passed


def test_a_tensor_that_was_left_behind_is_found() -> None:
    with pretended_device():
        there = torch.zeros(3, device=DEVICE)
        assert (there + 1).sum().item() == 3
        with pytest.raises(RuntimeError, match="one device"):
            there.add_(torch.ones(3))
