"""How cost grows with the work: one number at a time, everything else held.

Every point is a process of its own, forked before torch has threads, so that its memory is its
own; it decodes requests of equal lengths through the engine on one thread. A soak follows: some
thousands of mixed requests through one engine, with the memory after every hundred.
"""

import argparse
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import Results
from benchmarks.shapes import EOS, Shape, bart_like
from model_core.batching import may_pad
from model_core.encoder import Encoder
from model_core.engine import Engine
from model_core.families import find_family
from model_core.generation import GenerationParameters
from model_core.lean import LeanRunner
from model_core.scheduler import EngineLimits

_OUTPUT = Path(__file__).with_name("results") / "growth.json"
_MODEL = "model"
_FIRST_STEPS = 4  # after that which encodes
_SAMPLE_EVERY = 100  # requests of the soak


@dataclass(frozen=True)
class Point:
    """What one measurement decodes; every request alike."""

    requests: int = 8
    source_len: int = 32
    target_len: int = 32
    beams: int = 4
    vocabulary: int = 8_000


AXES: dict[str, tuple[int, ...]] = {
    "requests": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "source_len": (16, 32, 64, 128, 256, 512, 1024),
    "target_len": (16, 32, 64, 128, 256, 512, 1024),
    "beams": (1, 2, 4, 8),
    "vocabulary": (1_000, 4_000, 16_000, 64_000, 256_000),
}
NUM_ROUNDS = 3
NUM_SOAKED = 10_000


class Served:
    """An engine of its own over a random model of three layers."""

    def __init__(self, vocabulary: int, *, width: int = 256, encoder_cache_bytes: int = 0) -> None:
        shape = Shape(vocabulary, vocabulary - 1, bart_like(width, 3, 4 * width, width // 64))
        torch.manual_seed(0)
        model = shape.build(shape)
        model.eval()  # type: ignore[no-untyped-call]
        self._shape = shape
        family = find_family(model)
        assert family is not None
        encoder = Encoder(model, shape.pad_token_id, may_pad=may_pad(model))
        with torch.no_grad():
            runner = LeanRunner(encoder, family[1](model), encoder_cache_bytes=encoder_cache_bytes)
        limits = EngineLimits(
            max_running_requests=512,
            max_encode_tokens=10**9,
            max_waiting_requests=10**6,
            max_waiting_tokens=10**9,
        )
        self.engine = Engine({_MODEL: runner}, limits)

    def submit(self, rng: random.Random, source_len: int, target_len: int, beams: int) -> Any:
        """A request of random words, of exactly these lengths."""
        source_ids = (*rng.choices(self._shape.words, k=source_len - 1), EOS)
        parameters = GenerationParameters(
            decoder_start_token_id=EOS,
            pad_token_id=self._shape.pad_token_id,
            eos_token_ids=(EOS,),
            min_length=target_len + 1,
            max_length=target_len + 1,
            num_beams=beams,
        )
        return self.engine.submit(_MODEL, source_ids, parameters)


def measure(point: Point) -> dict[str, float]:
    """Decode a point.

    Returns:
        `encode_s`: of all sources, the first step less the median of the next ones; `step_s`: of
        one step, the median of the last quarter, when targets are longest; `memory_bytes`: the
        peak beyond what the model itself takes.
    """
    served = Served(point.vocabulary)
    rng = random.Random(0)
    _decode(served, rng, replace(point, requests=1, target_len=2))  # code that loads on first use
    before = _restart_peak()
    seconds = _decode(served, rng, point)
    last = seconds[-max(1, len(seconds) // 4) :]
    step_s = statistics.median(last)
    return {
        # Later steps take longer, the more of a target there is.
        "encode_s": max(0.0, seconds[0] - statistics.median(seconds[1 : 1 + _FIRST_STEPS])),
        "step_s": step_s,
        "memory_bytes": max(0, memory_bytes("VmHWM") - before),
    }


def _decode(served: Served, rng: random.Random, point: Point) -> list[float]:
    """Seconds of every step; the first one encodes too."""
    futures = [
        served.submit(rng, point.source_len, point.target_len, point.beams)
        for _ in range(point.requests)
    ]
    seconds = []
    started = time.perf_counter()
    while served.engine.step():
        now = time.perf_counter()
        seconds.append(now - started)
        started = now
    assert all(future.result(timeout=0).generated_tokens == point.target_len for future in futures)
    return seconds


def soak(num_requests: int) -> list[tuple[int, int]]:
    """Requests ended, and resident bytes then; 32 are in flight, of all lengths and widths."""
    served, rng = Served(1_000, width=64, encoder_cache_bytes=2**20), random.Random(0)
    in_flight: set[Any] = set()
    ended, samples = 0, []
    while ended < num_requests:
        while len(in_flight) < 32:
            lengths = rng.randint(2, 200), rng.randint(1, 60)
            in_flight.add(served.submit(rng, *lengths, beams=rng.choice((1, 1, 4, 6))))
        if rng.random() < 0.02:
            rng.choice(sorted(in_flight, key=id)).cancel()
        served.engine.step()
        done = {future for future in in_flight if future.done()}
        in_flight -= done
        if (ended + len(done)) // _SAMPLE_EVERY > ended // _SAMPLE_EVERY:
            samples.append((ended + len(done), memory_bytes("VmRSS")))
        ended += len(done)
    return samples


def memory_bytes(field: str) -> int:
    """Of this process, as Linux counts it: `VmRSS` now, `VmHWM` at most."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise ValueError(f"/proc/self/status has no {field}")


def _restart_peak() -> int:
    """Let `VmHWM` start from here; gives what is resident."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return memory_bytes("VmRSS")


def in_a_fork(work: Callable[[], Any]) -> Any:
    """What `work` gives, in a process that ends with it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def answer(connection: Connection) -> None:
        connection.send(work())

    process = context.Process(target=answer, args=(theirs,))
    process.start()
    theirs.close()
    try:
        return ours.recv()  # raises EOFError where the process failed
    finally:
        process.join()


def run(results: Results, axes: dict[str, Sequence[int]], num_rounds: int, num_soaked: int) -> None:
    """Measure all axes, in rounds, then soak."""
    for number in range(num_rounds):
        for axis, values in axes.items():
            for value in values:
                point = replace(Point(), **{axis: value})
                found = in_a_fork(lambda point=point: measure(point))  # type: ignore[misc]
                results.add(
                    {"mode": "growth", "axis": axis, "value": value, "round": number} | found
                )
                print(f"round {number + 1}: {axis} {value}: {found}", file=sys.stderr)
    samples = in_a_fork(lambda: soak(num_soaked))
    results.add({"mode": "soak", "samples": samples})


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--num-rounds", type=int, default=NUM_ROUNDS)
    parser.add_argument("--num-soaked", type=int, default=NUM_SOAKED)
    parser.add_argument("--output", type=Path, default=_OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # before any thread: a fork would not have them
    results = Results.new(arguments.output, point=asdict(Point()))
    axes: dict[str, Sequence[int]] = {name: AXES[name] for name in arguments.axes}
    run(results, axes, arguments.num_rounds, arguments.num_soaked)
    print(f"Written to {arguments.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
