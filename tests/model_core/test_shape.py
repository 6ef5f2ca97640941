"""A shape that is read from a configuration is that of the loaded checkpoint."""

from pathlib import Path

import pytest
import torch

from model_core.checkpoint import CheckpointOptions, DType, load_checkpoint
from model_core.choose_runner import GENERATE, choose_runner
from model_core.errors import CheckpointError
from model_core.generation import GenerationParameters
from model_core.request import Request
from model_core.shape import read_shape
from tests import tiny

SHIPPED = Path(__file__).parents[2] / "app" / "checkpoints"
DTYPES: tuple[DType, DType] = ("float32", "int8")
ON_A_CPU = CheckpointOptions(device="cpu")


def request_of(source_len: int, max_length: int, num_beams: int) -> Request:
    parameters = GenerationParameters(
        decoder_start_token_id=1,
        pad_token_id=0,
        eos_token_ids=(2,),
        max_length=max_length,
        num_beams=num_beams,
    )
    return Request("model", (5,) * source_len, parameters)


@pytest.mark.parametrize("name", ["bert2bert", "bert2gpt2", "bart", "marian", "m2m100", "t5"])
def test_a_slot_costs_what_admission_reserves(name: str, tmp_path: Path) -> None:
    folder = str(tiny.build_tiny_checkpoint(name, tmp_path))
    shape = read_shape(folder, ON_A_CPU)
    checkpoint = load_checkpoint(folder, ON_A_CPU)
    choice = choose_runner(checkpoint)

    assert shape.slot_cost is not None
    assert shape.family == choice.family
    for lengths in ((1, 2, 1), (31, 64, 1), (33, 65, 4), (200, 100, 5)):
        assert shape.slot_cost.bytes(*lengths) == choice.runner.cost_bytes(request_of(*lengths))
    assert shape.defaults == checkpoint.defaults
    assert shape.max_source_len == checkpoint.max_source_len
    assert shape.max_target_len == checkpoint.max_target_len


@pytest.mark.parametrize("name", ["translate-en-de", "summarize-en"])
def test_weights_are_counted_as_they_are_loaded(name: str) -> None:
    shape = read_shape(str(SHIPPED / name), ON_A_CPU)
    model = load_checkpoint(str(SHIPPED / name), ON_A_CPU).model

    held = (*model.parameters(), *model.buffers())
    assert shape.num_parameters == model.num_parameters()
    assert shape.weight_bytes == sum(each.nbytes for each in held)
    # Packed, the decoder's projections take their own size again; fused ones are new tensors.
    assert 0 < shape.copied_bytes < 2 * shape.weight_bytes


def test_no_weight_is_needed(tmp_path: Path) -> None:
    folder = tiny.build_tiny_checkpoint("bart", tmp_path)
    whole = read_shape(str(folder), ON_A_CPU)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()

    assert read_shape(str(folder), ON_A_CPU) == whole


def test_half_precision_halves_the_caches_and_a_gpu_packs_nothing() -> None:
    folder = str(SHIPPED / "translate-en-de")
    on_cpu = read_shape(folder, ON_A_CPU)
    on_cuda = read_shape(folder, CheckpointOptions(device="cuda:1", dtype="float16"))

    assert on_cpu.slot_cost is not None
    assert on_cuda.slot_cost is not None
    layouts = on_cpu.slot_cost.layout, on_cuda.slot_cost.layout
    assert layouts[0].bytes_per_token == 2 * layouts[1].bytes_per_token
    assert (on_cuda.device, on_cuda.dtype) == ("cuda", torch.float16)
    assert on_cuda.copied_bytes < on_cpu.copied_bytes / 2


def test_int8_packs_less_and_leaves_the_caches_as_they_are() -> None:
    folder = str(SHIPPED / "summarize-en")
    as_float, as_int8 = (
        read_shape(folder, CheckpointOptions(device="cpu", dtype=dtype)) for dtype in DTYPES
    )

    assert as_int8.slot_cost == as_float.slot_cost
    assert as_int8.weight_bytes == as_float.weight_bytes
    assert as_int8.copied_bytes < as_float.copied_bytes / 2


def test_what_goes_through_generate_has_no_slots(tmp_path: Path) -> None:
    name = next(iter(tiny.FALLBACK_ARCHITECTURES))
    shape = read_shape(str(tiny.build_tiny_checkpoint(name, tmp_path)), ON_A_CPU)

    assert (shape.family, shape.slot_cost, shape.copied_bytes) == (GENERATE, None, 0)


def test_a_decoder_only_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')

    with pytest.raises(CheckpointError, match="expected the configuration of an encoder-decoder"):
        read_shape(str(tmp_path), ON_A_CPU)
