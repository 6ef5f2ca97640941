"""Worker processes that load the same checkpoints, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from model_core.checkpoint import CheckpointOptions
from model_core.errors import CheckpointError, WorkerLostError
from model_core.workers.messages import Description, Order
from model_core.workers.process import ThreadShare, Worker


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Processes that run the lean checkpoints of a CPU, in place of the engine's own.

    Attributes:
        num_workers: How many; each loads all checkpoints.
        command: Runs one; see `Worker`.
    """

    num_workers: int
    command: Sequence[str]


def start_workers(
    options: WorkerOptions,
    checkpoints: Mapping[str, tuple[str, CheckpointOptions]],
    encoder_cache_bytes: int,
) -> tuple[tuple[Worker, ...], Mapping[str, Description]]:
    """Start workers, and wait until all of them have loaded.

    Args:
        options: How many, and how.
        checkpoints: By name: where each is, and how to load it.
        encoder_cache_bytes: Bound of each encoder-output cache, 0 for none.

    Returns:
        The workers, and what each of them keeps, by name. There are none where all checkpoints go
        through `generate()`.

    Raises:
        CheckpointError: A checkpoint cannot be loaded.
    """
    num_threads = torch.get_num_threads()
    order = Order(checkpoints, encoder_cache_bytes, max(1, num_threads // options.num_workers))
    threads = ThreadShare(num_threads)
    workers = [Worker(options.command, order, threads) for _ in range(options.num_workers)]
    try:
        for worker in workers:
            worker.start()
        described = [worker.descriptions() for worker in workers]
    except BaseException as error:
        close_workers(workers)
        if isinstance(error, WorkerLostError):
            raise CheckpointError(f"{error} while it loaded {', '.join(checkpoints)}") from error
        raise
    if not described[0]:
        close_workers(workers)
        workers = []
    return tuple(workers), described[0]


def close_workers(workers: Sequence[Worker]) -> None:
    """End workers; all have hung up before any of them is waited for."""
    for worker in workers:
        worker.hang_up()
    for worker in workers:
        worker.close()
