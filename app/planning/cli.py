"""The command `tandem plan`."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from app.cli_parts import (
    MODEL_FIELDS,
    one_checkpoint,
    plain_errors,
    read_settings,
    settings_options,
)
from app.container_limits import available_memory
from app.settings import Settings, variable

if TYPE_CHECKING:
    from app.planning.plan import Plan, Workload
    from model_core.models import ModelSource
    from model_core.shape import Shape

_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(i?)B?|B?)", re.IGNORECASE)


def _read_memory(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    if value is None:
        return None
    found = _MEMORY.fullmatch(value.strip())
    if found is None or not float(found[1]):
        raise click.UsageError(f"--memory is {value!r}: expected bytes, as 8GiB or 16G")
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 0
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


@click.command()
@click.argument("checkpoint", callback=one_checkpoint)
@click.option(
    "--memory",
    metavar="SIZE",
    callback=_read_memory,
    help="As 8GiB; left out: what this container, machine or CUDA device has.",
)
@click.option("--source-tokens", "source_len", type=click.IntRange(1), help="Of a usual request.")
@click.option("--target-tokens", "max_length", type=click.IntRange(2), help="Its maximum length.")
@click.option("--num-beams", type=click.IntRange(1), help="Its hypotheses.")
@settings_options((*MODEL_FIELDS, "workers"))
def plan(
    checkpoint: str,
    memory: int | None,
    source_len: int | None,
    max_length: int | None,
    num_beams: int | None,
    **flags: Any,
) -> None:
    """Say what CHECKPOINT takes, and which limits to set, from its configuration alone.

    The checkpoint is taken to have the memory for itself. What is printed is a file of variables:
    all else is behind a #.
    """
    settings = read_settings({**flags, "translate_model": checkpoint, "summarize_model": "none"})
    from app.opening import resolve_workers
    from app.planning.plan import Workload, make_plan

    with plain_errors():
        shape, source = _read_shape(settings)
        workload = Workload.usual(shape, settings).given(
            source_len=source_len, max_length=max_length, num_beams=num_beams
        )
        memory_bytes = memory or _memory_of(shape)
        num_workers = resolve_workers(settings, [source], [shape], memory_bytes)
        planned = make_plan(shape, workload, memory_bytes, settings, num_workers=num_workers)
    for line in _report(shape, workload, memory_bytes, planned, settings):
        click.echo(line)


def _read_shape(settings: Settings) -> "tuple[Shape, ModelSource]":
    """The shape of the checkpoint, and where it is."""
    from app.opening import check_workers, checkpoint_options, configured_sources
    from model_core.shape import read_shape

    options = checkpoint_options(settings)
    (source,) = configured_sources(settings, options, is_partial=True).values()
    check_workers(settings, [source])
    return read_shape(source.location, source.options_over(options)), source


def _memory_of(shape: "Shape") -> int:
    if shape.device == "cpu":
        return available_memory()
    import torch

    if not torch.cuda.is_available():
        raise click.UsageError("there is no CUDA device here: expected --memory, as 24GiB")
    return int(torch.cuda.mem_get_info()[1])


def _report(
    shape: "Shape", workload: "Workload", memory_bytes: int, planned: "Plan", settings: Settings
) -> Iterator[str]:
    from app.planning.plan import Workload, size, slot_cost_of

    cost = slot_cost_of(shape)
    largest = Workload.largest(shape, settings)
    largest_bytes = largest.slot_bytes(cost)
    dtype = str(shape.dtype).removeprefix("torch.")
    yield f"# {shape.name}: {shape.architecture}, family {shape.family}, {dtype} on {shape.device}"
    yield f"# weights: {size(shape.weight_bytes)} ({shape.num_parameters:,} parameters)"
    yield f"# copies of weights for the kernels: {size(shape.copied_bytes)}"
    yield f"# a token in the caches: {size(cost.layout.bytes_per_token)}"
    yield f"# a slot: {size(workload.slot_bytes(cost))} ({workload})"
    yield f"# the largest request: {size(largest_bytes)} ({largest})"
    if largest_bytes > planned.cache_bytes:
        yield "# the largest request does not fit: it will be refused"
    yield f"# memory: {size(memory_bytes)}, of which {size(planned.fixed_bytes)} are taken"
    if planned.num_workers:
        yield f"# workers: {planned.num_workers}, each with its weights and caches"
    each = " into each worker" if planned.num_workers else ""
    yield f"# slots that fit{each}: {planned.num_slots}"
    for field, value in planned.limits.items():
        yield f"{variable(field)}={value}"
