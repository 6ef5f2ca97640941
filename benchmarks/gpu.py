"""Everything about a GPU in one call: correctness, throughput beside the others, and a step's time.

What does not fit into the minutes it is given is left out, and named.
"""

import argparse
import gc
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from benchmarks.checkpoints import build_checkpoint, checkpoint_folder
from benchmarks.gpu_checks import attention_differences, parity_rate
from benchmarks.gpu_report import gpu_section
from benchmarks.gpu_steps import step_times
from benchmarks.libraries import CTranslate2, Knobs, Library, Tandem, Transformers
from benchmarks.results import Results
from benchmarks.shapes import Shape, bart_like, bert2bert_like, marian_like
from benchmarks.workloads import WORKLOADS, Item, Workload
from model_core.checkpoint import CheckpointOptions, load_checkpoint
from model_core.choose_runner import choose_runner
from model_core.cuda.planning import CudaPlan, free_bytes
from model_core.cuda.runner import PooledRunner
from model_core.generation import GenerationLimits, GenerationOverrides
from model_core.heap import freeze_heap
from model_core.request import Request
from model_core.text import TextProcessor

_RESULTS = Path(__file__).with_name("results")
_DECODED = (
    "summarize-large-greedy",
    "summarize-large",
    "translate",
    "translate-greedy",
    "summarize",
    "bert2bert",
)
_READ = ("shipped-translate", "shipped-summarize")
_BATCH_SIZES = (256, 512)  # of generate() and CTranslate2: the best one counts
_TINY_BATCH_SIZE = 128
_LENGTH_SLACK = 0.25
_WARM_UP_LEN = 8  # tokens
_ROUNDS_S = 4.0  # no further round begins after these
_TINY = {
    "opus-mt": Shape(96, 95, marian_like(32, 2, 64, 2)),
    "bart-base": Shape(96, 2, bart_like(32, 2, 64, 2)),
    "bart-large": Shape(96, 2, bart_like(32, 2, 64, 2)),
    "bert2bert": Shape(96, 1, bert2bert_like(32, 2, 64, 2)),
}


class Suite:
    """One run.

    Args:
        arguments: Of the command line.
        scratch: For tiny checkpoints.
    """

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self._arguments = arguments
        self._scratch = scratch
        self._ends_at = time.monotonic() + 60 * arguments.minutes
        self._knobs = Knobs(device=arguments.device, dtype=arguments.dtype)
        self._device = torch.device(arguments.device)
        self._batch_sizes = (_TINY_BATCH_SIZE,) if arguments.tiny else _BATCH_SIZES
        self.results = Results.new(
            arguments.output or _RESULTS / f"gpu-{_slug(_name_of(self._device))}.json",
            gpu=_name_of(self._device),
            arguments={
                name: str(value) for name, value in vars(arguments).items() if name != "output"
            },
        )

    def run(self) -> None:
        """All parts, the most telling ones first."""
        for name in self._arguments.workload:
            self._measure_throughput(name)
            self._try(name, "tandem", "step", partial(self._measure_step, name))
        self._try("attention", "all", "difference", self._check_attention)
        for name in _READ:
            for dtype in self._arguments.parity_dtype:
                self._try(name, dtype, "parity", partial(self._parity, name, dtype))

    def _check_attention(self) -> dict[str, Any]:
        return dict(attention_differences(self._device))

    def _parity(self, name: str, dtype: str) -> dict[str, Any]:
        workload = WORKLOADS[name]
        items = workload.items(self._arguments.num_texts)
        knobs = replace(self._knobs, dtype=dtype)
        rate = parity_rate(checkpoint_folder(workload.checkpoint), workload.task, items, knobs)
        return {"rate": rate, "num_texts": len(items)}

    def _measure_step(self, name: str) -> dict[str, Any]:
        workload = WORKLOADS[name]
        items = workload.items(self._arguments.num_running)
        runner, requests = self._pooled(workload, items)
        num_steps = 4 if self._arguments.tiny else 40
        return step_times(runner, requests, num_steps).as_dict()

    def _pooled(
        self, workload: Workload, items: Sequence[Item]
    ) -> tuple[PooledRunner, list[Request]]:
        """A runner with captured steps for these requests."""
        options: dict[str, Any] = {"device": self._arguments.device, "dtype": self._arguments.dtype}
        checkpoint = load_checkpoint(str(self._folder(workload)), CheckpointOptions(**options))
        text = TextProcessor(checkpoint, GenerationLimits())
        overrides = [GenerationOverrides(**cast(Any, item.parameters)) for item in items]
        prepared = [
            text.prepare(item.text, task=workload.task, overrides=each)
            for item, each in zip(items, overrides, strict=True)
        ]
        free = free_bytes(self._device) if self._device.type == "cuda" else 1 << 32
        plan = CudaPlan(
            num_bytes=int(0.8 * free),
            num_slots=len(items),
            max_source_len=max(len(each.source_ids) for each in prepared),
            max_target_len=max(each.parameters.max_length for each in prepared) + 64,
            max_num_beams=items[0].num_beams,
        )
        runner = choose_runner(checkpoint, cuda=plan).runner
        assert isinstance(runner, PooledRunner), "a workload goes through generate()"
        runner.warm_up([prepared[0].parameters])
        requests = [
            Request(str(number), each.source_ids, each.parameters)
            for number, each in enumerate(prepared)
        ]
        return runner, requests

    def _measure_throughput(self, name: str) -> None:
        """Of all systems: many requests at once, and one alone."""
        items = WORKLOADS[name].items(self._arguments.num_items)
        num_running = min(self._arguments.num_running, len(items))
        tandem = _tandem_with(num_running, self._arguments.max_encode_tokens)
        self._measure_system(name, "tandem", tandem, {len(items): items})
        for system, library in (("transformers", Transformers), ("ctranslate2", CTranslate2)):
            batches = {size: items[:size] for size in self._batch_sizes}
            self._measure_system(name, system, library, batches)

    def _measure_system(
        self, name: str, system: str, library: type[Library], batches: Mapping[int, Sequence[Item]]
    ) -> None:
        """One system: each batch size with its requests, and a request alone between them."""
        workload = WORKLOADS[name]
        loaded: Library | None = None

        def load() -> dict[str, Any]:
            nonlocal loaded
            started = time.perf_counter()
            loaded = library(self._folder(workload), workload.task, self._knobs)
            loaded.decode(modes[0][2][:2])
            freeze_heap()  # as a server does
            return {"load_s": time.perf_counter() - started}

        modes = [("offline", size, items) for size, items in batches.items()]
        modes.insert(1, ("alone", 1, modes[0][2][:1]))
        self._try(name, system, "load", load)
        if loaded is None:
            return
        try:
            for mode, size, items in modes:
                knobs = replace(self._knobs, max_batch_size=size, length_slack=_LENGTH_SLACK)
                self._try(name, system, mode, partial(self._offline, loaded, knobs, items))
        finally:
            loaded.close()
            gc.unfreeze()

    def _offline(self, loaded: Library, knobs: Knobs, items: Sequence[Item]) -> dict[str, Any]:
        """Tokens per second of all requests at once, round by round, while there is time."""
        loaded.knobs = knobs
        # Memory for batches of this size, and plans for their shapes, are made before.
        loaded.decode([replace(item, target_len=_WARM_UP_LEN) for item in items])
        rates: list[float] = []
        ends_at = time.perf_counter() + _ROUNDS_S
        while not rates or (
            len(rates) < self._arguments.num_rounds and time.perf_counter() < ends_at
        ):
            started = time.perf_counter()
            answers = loaded.decode(items)
            seconds = time.perf_counter() - started
            rates.append(sum(answer.num_tokens for answer in answers) / seconds)
        return {"tokens_per_s": rates, "num_items": len(items), "batch_size": knobs.max_batch_size}

    def _folder(self, workload: Workload) -> Path:
        if not self._arguments.tiny:
            return checkpoint_folder(workload.checkpoint)
        folder = self._scratch / workload.checkpoint
        if not folder.exists():
            build_checkpoint(_TINY[workload.checkpoint], folder)
        return folder

    def _try(
        self, workload: str, system: str, mode: str, measure: Callable[[], dict[str, Any]]
    ) -> None:
        """Measure while there is time; what fails is named, and stops nothing else."""
        if time.monotonic() > self._ends_at:
            self.results.leave_out(workload, system, mode, "there was no time left")
            return
        try:
            measured = measure()
        except Exception as error:  # noqa: BLE001  # one that fails must not lose the rest
            self.results.leave_out(workload, system, mode, f"{type(error).__name__}: {error}")
            return
        finally:
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        line = {"workload": workload, "system": system, "mode": mode} | measured
        self.results.add(line)
        print(line, flush=True)


def _tandem_with(num_running: int, num_tokens: int) -> type[Tandem]:
    class Wide(Tandem):
        """So many requests together, so many source tokens encoded between two steps."""

        max_running_requests = num_running
        max_encode_tokens = num_tokens

    return Wide


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main(command_line: Sequence[str] | None = None) -> Results:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin nothing after these")
    parser.add_argument("--workload", nargs="*", choices=_DECODED, default=list(_DECODED))
    parser.add_argument("--num-items", type=int, default=512, help="requests at once")
    parser.add_argument("--num-running", type=int, default=128, help="of them, Tandem's in flight")
    parser.add_argument("--max-encode-tokens", type=int, default=16_384, help="Tandem's setting")
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--num-texts", type=int, default=64, help="for the rates of parity")
    parser.add_argument("--parity-dtype", nargs="*", default=["float32", "bfloat16", "float16"])
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try it without a GPU")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(command_line)
    with TemporaryDirectory() as scratch:
        suite = Suite(arguments, Path(scratch))
        suite.run()
    print(gpu_section(suite.results))
    return suite.results


if __name__ == "__main__":
    main()
