from dataclasses import replace
from typing import Any

import pytest
import torch

from model_core.decoder import Decoder
from model_core.encoder import Encoder
from model_core.families import find_family
from model_core.self_check import SelfCheck, check_decoder
from tests import tiny


def build(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Decoder]:
    model: Any = tiny.LEAN_ARCHITECTURES[name]()
    model = model.to(dtype)
    family = find_family(model)
    assert family is not None
    with torch.no_grad():
        return model, family[1](model)


def check(model: Any, decoder: Decoder) -> SelfCheck:
    defaults = model.generation_config
    return check_decoder(
        model,
        decoder,
        Encoder(model, defaults.pad_token_id),
        vocab_size=decoder.embeddings.tokens.shape[0],
        pad_token_id=defaults.pad_token_id,
        decoder_start_token_id=defaults.decoder_start_token_id,
    )


@pytest.mark.parametrize("name", list(tiny.LEAN_ARCHITECTURES))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_lean_decoder_of_every_named_architecture_passes(name: str, dtype: torch.dtype) -> None:
    found = check(*build(name, dtype))
    assert found.passed, found


@pytest.mark.parametrize("name", ["bert2bert", "bart", "t5"])
@pytest.mark.parametrize(
    "fault", ["scale", "norm", "position", "bias"], ids=lambda fault: f"wrong-{fault}"
)
def test_a_decoder_with_one_wrong_part_fails(name: str, fault: str) -> None:
    model, decoder = build(name)
    embeddings, head = decoder.embeddings, decoder.head
    if fault == "scale":
        decoder = replace(decoder, attention_scale=decoder.attention_scale * 1.1)
    elif fault == "norm":
        decoder = replace(decoder, norm_first=not decoder.norm_first)
    elif fault == "bias":
        wrong = replace(head.output, bias=torch.ones(head.output.weight.shape[0]))
        decoder = replace(decoder, head=replace(head, output=wrong))
    elif embeddings.positions is None:
        decoder = replace(decoder, position_biases=())
    else:
        shifted = replace(embeddings.positions, offset=embeddings.positions.offset + 1)
        decoder = replace(decoder, embeddings=replace(embeddings, positions=shifted))
    assert not check(model, decoder).passed


def test_logits_that_are_not_a_number_fail() -> None:
    model, decoder = build("bart")
    broken = replace(decoder, attention_scale=float("nan"))
    assert not check(model, broken).passed
