"""A process that has loaded a library and decodes when it is told to.

Every line of standard input is a JSON object with a `workload`, one of those with the checkpoint
that was loaded, and `{"decode": num_items, "seed": seed}` or `{"steps": rows}`; every answer is one
line. The first line that it writes says why it cannot, or nothing.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.checkpoints import checkpoint_folder
from benchmarks.libraries import Knobs, Library, Tandem
from benchmarks.limits import Products
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS, Item, Workload
from model_core.heap import freeze_heap

_NUM_STEPS = 24
_NUM_FIRST_STEPS = 8  # admission and warm-up
_STEP_SOURCE = 32  # words


def decode(library: Library, workload: Workload, num_items: int, seed: int) -> dict[str, Any]:
    """Decode requests that are there at once: their tokens, and the seconds.

    Raises:
        RuntimeError: The library did other work than was asked for.
    """
    items = workload.items(num_items, seed)
    started = time.perf_counter()
    answers = library.decode(items)
    seconds = time.perf_counter() - started
    for item, answer in zip(items, answers, strict=True):
        if item.target_len not in (None, answer.num_tokens):
            raise RuntimeError(
                f"{type(library).__name__} gave {answer.num_tokens} tokens: "
                f"expected {item.target_len}"
            )
    return {"tokens": sum(answer.num_tokens for answer in answers), "seconds": seconds}


def steps(library: Tandem | Products, workload: Workload, rows: int) -> dict[str, Any]:
    """Seconds of one decoder step with so many rows, median of several."""
    if isinstance(library, Products):
        seconds = [_timed(lambda: library.step(rows)) for _ in range(_NUM_STEPS)]
        return {"seconds": statistics.median(seconds)}
    (model_item,) = workload.items(1)
    num_beams = model_item.num_beams
    length = _NUM_FIRST_STEPS + _NUM_STEPS + 1
    library.begin(
        [
            Item(" ".join([f"t{10 + index}"] * _STEP_SOURCE), num_beams, length)
            for index in range(max(1, rows // num_beams))
        ]
    )
    for _ in range(_NUM_FIRST_STEPS):
        library.step()
    seconds = [_timed(library.step) for _ in range(_NUM_STEPS)]
    while library.step():
        pass
    return {"seconds": statistics.median(seconds)}


def _timed(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def answer(
    library: Library, load_alone: Callable[[], Library], lines: Iterator[str]
) -> Iterator[dict[str, Any]]:
    """The answers to lines of standard input.

    Args:
        library: Decodes.
        load_alone: Gives the same library in this process and with all threads, for single steps.
        lines: See above.
    """
    alone: Library | None = None
    for line in lines:
        order = json.loads(line)
        workload = WORKLOADS[order["workload"]]
        if "steps" in order:
            alone = alone or load_alone()
            assert isinstance(alone, Tandem | Products)
            yield steps(alone, workload, order["steps"])
        else:
            yield decode(library, workload, order["decode"], order["seed"])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--knobs", type=json.loads, required=True)
    arguments = parser.parse_args()
    system, workload = SYSTEMS[arguments.system], WORKLOADS[arguments.workload]
    load = partial(system.library, checkpoint_folder(workload.checkpoint), workload.task)
    try:
        library = load(Knobs(**arguments.knobs))
        library.decode(workload.items(2, seed=-1))  # warm-up
        freeze_heap()  # as our server does; for all systems
    except (ImportError, ValueError) as error:
        print(json.dumps(str(error)), flush=True)
        return
    print(json.dumps(""), flush=True)
    for result in answer(library, partial(load, system.knobs), sys.stdin):
        print(json.dumps(result), flush=True)
    gc.unfreeze()  # extensions complain at exit of what was not collected


if __name__ == "__main__":
    main()
