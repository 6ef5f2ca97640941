"""The engine on an accelerator; run by `make test-gpu` where there is one."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_core.checkpoint import CheckpointOptions
from model_core.generation import GenerationLimits
from model_core.models import ModelSource, load_models
from model_core.scheduler import EngineLimits
from tests import tiny
from tests.lean import load_lean, random_parameters, random_source
from tests.parity import assert_same, generate_alone

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", list(tiny.LEAN_ARCHITECTURES))
@pytest.mark.parametrize("num_beams", [1, 4])
def test_cuda_gives_the_tokens_of_generate_on_cuda(
    name: str, num_beams: int, tmp_path: Path
) -> None:
    tiny.build_tiny_checkpoint(name, tmp_path)
    loaded = load_models(
        [ModelSource("tiny", str(tmp_path))],
        CheckpointOptions(device="cuda", dtype="float32"),
        EngineLimits(max_running_requests=5),
        GenerationLimits(),
    )
    model = loaded.models["tiny"]
    assert model.family != "generate"
    lean, rng = load_lean(name), random.Random(0)
    parameters = replace(lean.defaults, num_beams=num_beams, no_repeat_ngram_size=3)
    sources = [random_source(lean, rng) for _ in range(12)]
    futures = [model.engine.submit("tiny", source, parameters) for source in sources]
    while model.engine.step():
        pass
    for source, future in zip(sources, futures, strict=True):
        reference = generate_alone(model.checkpoint.model, source, parameters)
        assert_same(future.result(timeout=0), reference)


@pytest.mark.parametrize("name", ["bert2bert", "marian", "m2m100", "t5"])
def test_cuda_serves_every_mixture_of_parameters_while_requests_come_and_go(
    name: str, tmp_path: Path
) -> None:
    tiny.build_tiny_checkpoint(name, tmp_path)
    loaded = load_models(
        [ModelSource("tiny", str(tmp_path))],
        CheckpointOptions(device="cuda", dtype="float32"),
        EngineLimits(max_running_requests=7, max_encode_tokens=120),
        GenerationLimits(),
    )
    model = loaded.models["tiny"]
    lean, rng = load_lean(name), random.Random(1)
    futures = {}
    for number in range(30):
        source, parameters = random_source(lean, rng), random_parameters(lean, rng)
        future = model.engine.submit("tiny", source, parameters)
        if number % 5 == 4:
            future.cancel()
        else:
            futures[source, parameters] = future
        model.engine.step()
    while model.engine.step():
        pass
    for (source, parameters), future in futures.items():
        reference = generate_alone(model.checkpoint.model, source, parameters)
        assert_same(future.result(timeout=0), reference)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_passes_the_self_check_on_cuda(dtype: str, tmp_path: Path) -> None:
    tiny.build_tiny_checkpoint("bart", tmp_path)
    loaded = load_models(
        [ModelSource("tiny", str(tmp_path))],
        CheckpointOptions(device="cuda", dtype=dtype),  # type: ignore[arg-type]
        EngineLimits(),
        GenerationLimits(),
    )
    model = loaded.models["tiny"]
    assert model.family == "bart"
    assert model.checkpoint.dtype == getattr(torch, dtype)
