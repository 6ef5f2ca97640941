"""Tied pairs: the reference is the tied model, however its weights lie in the file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from model_core.checkpoint import Checkpoint, CheckpointOptions, load_checkpoint
from model_core.errors import CheckpointError
from model_core.families import find_family
from tests import tiny

TIED = ("bert2bert-tied", "roberta2roberta")
Weights = dict[str, Tensor]


@pytest.fixture(params=TIED)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tied pair whose file holds both sides, as `pytorch_model.bin` of transformers 4 did."""
    return tiny.build_tiny_checkpoint(request.param, tmp_path / "tied")


def change(folder: Path, edit: Callable[[Weights], Weights]) -> None:
    weights = edit(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def set_entry(folder: Path, value: bool | None) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["tie_encoder_decoder"] = value
    (folder / "config.json").write_text(json.dumps(config))


def load(folder: Path, **options: Any) -> Checkpoint:
    return load_checkpoint(str(folder), CheckpointOptions(device="cpu", **options))


def is_shared(decoder_name: str) -> bool:
    """Whether both sides have a weight: not in cross-attention, not in the head."""
    parts = decoder_name.split(".")
    in_stack = parts[0] == "decoder" and parts[1] in ("bert", "roberta")
    return in_stack and "crossattention" not in parts


def without_decoder(weights: Weights) -> Weights:
    head = "predictions.decoder.weight", "lm_head.decoder.weight"  # shares the embeddings
    return {
        name: weight
        for name, weight in weights.items()
        if not is_shared(name) and not name.endswith(head)
    }


def without_encoder(weights: Weights) -> Weights:
    """Keep what the decoder has no counterpart of: the pooler."""
    return {
        name: weight
        for name, weight in weights.items()
        if not name.startswith("encoder.") or "pooler" in name
    }


def answers(checkpoint: Checkpoint) -> list[list[int]]:
    model: Any = checkpoint.model
    found = []
    for source in tiny.random_sources(4):
        ids = torch.tensor([source])
        rows = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=2)
        found.append(rows[0].tolist())
    return found


def assert_tied(checkpoint: Checkpoint) -> None:
    model: Any = checkpoint.model
    stack = getattr(model.decoder, model.decoder.base_model_prefix)
    shared = dict(model.encoder.named_parameters())
    tied = [name for name, parameter in stack.named_parameters() if shared.get(name) is parameter]
    assert len(tied) == 5 + 16 * 2  # embeddings and their norm, and two layers
    head = model.get_output_embeddings().weight
    assert head is model.encoder.get_input_embeddings().weight


@pytest.mark.parametrize("edit", [dict, without_decoder, without_encoder])
def test_a_tied_pair_is_the_same_model_however_its_file_names_the_weights(
    folder: Path, edit: Callable[[Weights], Weights]
) -> None:
    reference: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)  # equal weights on both sides
    change(folder, edit)

    checkpoint = load(folder)

    assert_tied(checkpoint)
    for name, weight in checkpoint.model.state_dict().items():
        assert torch.equal(weight, reference.state_dict()[name]), name
    family = find_family(checkpoint.model)
    assert family is not None
    assert len({tuple(row) for row in answers(checkpoint)}) == 4


def test_weights_stay_tied_in_half_precision(folder: Path) -> None:
    change(folder, without_decoder)
    checkpoint = load(folder, dtype="bfloat16")
    assert_tied(checkpoint)
    assert checkpoint.dtype == torch.bfloat16


@pytest.mark.parametrize("entry", [None, False])
def test_missing_decoder_weights_are_an_error_without_the_entry(
    folder: Path, entry: bool | None
) -> None:
    change(folder, without_decoder)
    set_entry(folder, entry)
    with pytest.raises(CheckpointError, match=r"\d+ missing: decoder\."):
        load(folder)


def test_the_operator_can_tie_without_the_entry_and_keep_apart_with_it(folder: Path) -> None:
    change(folder, without_decoder)
    with pytest.raises(CheckpointError, match="missing"):
        load(folder, tie_encoder_decoder=False)
    set_entry(folder, None)
    assert_tied(load(folder, tie_encoder_decoder=True))


@pytest.mark.parametrize("part", [r"crossattention\.self\.key", r"(lm_head|transform)\.dense"])
def test_what_tying_does_not_supply_is_an_error(folder: Path, part: str) -> None:
    weights = load_file(folder / "model.safetensors")
    missing = [name for name in weights if re.search(part, name)]
    change(folder, lambda weights: {n: w for n, w in weights.items() if n not in missing})
    with pytest.raises(CheckpointError, match="missing: decoder"):
        load(folder)


def test_a_weight_that_both_sides_lack_is_an_error(folder: Path) -> None:
    part = "layer.1.attention.self.value.weight"
    change(folder, lambda weights: {n: w for n, w in weights.items() if not n.endswith(part)})
    with pytest.raises(CheckpointError, match=r"2 missing: decoder.*, encoder"):
        load(folder)


def differing(weights: Weights) -> Weights:
    name = "encoder.encoder.layer.0.intermediate.dense.weight"
    return {**weights, name: weights[name] + 0.5}


def test_sides_that_differ_are_left_apart_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder, differing)
    reference: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)

    checkpoint = load(folder)

    assert "left apart" in caplog.text
    for name, weight in checkpoint.model.state_dict().items():
        assert torch.equal(weight, reference.state_dict()[name]), name


def test_sides_that_differ_take_the_decoders_weights_if_the_operator_says_so(folder: Path) -> None:
    change(folder, differing)
    checkpoint = load(folder, tie_encoder_decoder=True)
    assert_tied(checkpoint)
    weights = load_file(folder / "model.safetensors")
    (name,) = (n for n in weights if is_shared(n) and "layer.0.intermediate.dense.weight" in n)
    found = checkpoint.model.get_parameter("encoder.encoder.layer.0.intermediate.dense.weight")
    assert torch.equal(found, weights[name])


def test_only_an_encoder_decoder_model_can_be_tied(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("bart", tmp_path)
    set_entry(folder, True)
    with pytest.raises(CheckpointError, match="expected an EncoderDecoderModel"):
        load(folder)
