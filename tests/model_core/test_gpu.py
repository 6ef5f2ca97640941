"""The engine on an accelerator; run by `make test-gpu` where there is one."""

import copy
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model_core.checkpoint import CheckpointOptions
from model_core.cuda.ranking import fused_ranking
from model_core.engine import Engine
from model_core.generation import GenerationLimits
from model_core.models import ModelSource, load_models
from model_core.request import Output, Request
from model_core.scheduler import EngineLimits
from tests import tiny
from tests.lean import load_lean, random_parameters, random_source
from tests.model_core.cuda.drawn import Shape, assert_close, problem
from tests.model_core.cuda.runners import pooled_runner
from tests.model_core.cuda.test_ranking import drawn
from tests.parity import assert_same, generate_alone

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", list(tiny.LEAN_ARCHITECTURES))
@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("is_captured", [True, False], ids=["captured", "eager"])
def test_cuda_gives_the_tokens_of_generate_on_cuda(
    name: str, num_beams: int, is_captured: bool
) -> None:
    lean, rng = load_lean(name), random.Random(0)
    model = on_cuda(lean.model)
    runner = pooled_runner(replace(lean, model=model))
    parameters = replace(lean.defaults, num_beams=num_beams, no_repeat_ngram_size=3)
    if is_captured:
        runner.warm_up([parameters])
    engine = Engine({"tiny": runner}, EngineLimits(max_running_requests=5))
    sources = [random_source(lean, rng) for _ in range(12)]
    futures = [engine.submit("tiny", source, parameters) for source in sources]
    while engine.step():
        pass
    for source, future in zip(sources, futures, strict=True):
        assert_same(future.result(timeout=0), generate_alone(model, source, parameters))


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("is_captured", [True, False], ids=["captured", "eager"])
def test_a_vocabulary_of_any_size_has_the_tokens_of_generate(
    num_beams: int, is_captured: bool
) -> None:
    lean, rng = load_lean("bart"), random.Random(0)
    model = on_cuda(lean.model)
    runner = pooled_runner(replace(lean, model=model), outputs_multiple=lean.vocab + 5)
    parameters = replace(lean.defaults, num_beams=num_beams)
    if is_captured:
        runner.warm_up([parameters])
    requests = [Request(str(n), random_source(lean, rng), parameters) for n in range(5)]
    runner.admit(requests)
    outputs: dict[Request, Output] = {}
    while (report := runner.step()).num_rows:
        outputs.update(report.finished)
    for each in requests:
        assert_same(outputs[each], generate_alone(model, each.source_ids, parameters))


@pytest.mark.parametrize("name", ["bert2bert", "bert2gpt2", "marian", "m2m100", "t5"])
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_splits", [1, 4])
@pytest.mark.parametrize("num_beams", [1, 3, 4, 16])
@pytest.mark.parametrize("head_dim", [32, 64, 80, 128])
def test_the_compiled_kernel_is_attention_written_out(
    dtype: torch.dtype, num_splits: int, num_beams: int, head_dim: int
) -> None:
    from model_core.cuda import kernel

    for has_ancestry, num_distances in ((True, None), (True, 32), (False, None)):
        shape = Shape(num_beams, 2, head_dim, (0, 1, 64, 150), has_ancestry, num_distances)
        asked = problem(shape, dtype, "cuda")
        context = kernel.attend(
            asked.query, asked.entries, asked.ancestry, asked.bias, num_splits=num_splits
        )
        assert_close(context, asked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_beams", [1, 4, 16])
@pytest.mark.parametrize("vocab_size", [96, 50_265, 58_101, 256_206, 1_000_001])
def test_the_compiled_kernels_find_what_is_best(
    dtype: torch.dtype, num_beams: int, vocab_size: int
) -> None:
    logits, live_scores = drawn(3, num_beams, vocab_size, dtype, 0, "cuda")
    fused, num_best = fused_ranking(), 1 if num_beams == 1 else 2 * num_beams
    normalizers = fused.log_sum_exp(logits)
    expected = logits.double().logsumexp(-1)
    assert torch.allclose(normalizers.double(), expected, rtol=1e-5, atol=1e-5)
    found, parents, token_ids = fused.best(logits, normalizers, live_scores, num_best)
    totals = ((logits.float() - normalizers[..., None]) + live_scores[..., None]).flatten(1)
    assert torch.equal(found, totals.topk(num_best).values)
    assert torch.equal(totals.gather(1, parents * vocab_size + token_ids), found)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_captured_step_asks_the_device_nothing(num_beams: int) -> None:
    lean = load_lean("bart")
    runner = pooled_runner(replace(lean, model=on_cuda(lean.model)))
    wanted = replace(lean.defaults, eos_token_ids=(), max_length=40, num_beams=num_beams)
    runner.warm_up([wanted])
    requests = [
        Request(str(number), random_source(lean, random.Random(number)), wanted)
        for number in range(3)
    ]
    runner.admit(requests)
    for _ in range(3):
        runner.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            runner.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_cuda(model: Any) -> Any:
    return copy.deepcopy(model).to("cuda")


def test_a_lost_device_ends_the_loop() -> None:
    # In a process of its own: it can use its device no more.
    program = """
import torch
from model_core.device_loss import telling_device_loss
from model_core.errors import DeviceLostError

@telling_device_loss
def read_out_of_bounds():
    table = torch.zeros(4, device="cuda")
    table[torch.full((1,), 1 << 40, device="cuda")].sum().item()

try:
    read_out_of_bounds()
except DeviceLostError:
    print("lost")
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == "lost", ran.stderr
