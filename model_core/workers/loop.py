"""The worker's side: loads what it is told to, and runs it call by call."""

import faulthandler
import gc
import logging
import os
import pickle  # nosec B403  # asks only whether something can be pickled
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from threading import Event, Thread
from typing import Any

import torch

from model_core.checkpoint import load_checkpoint
from model_core.choose_runner import choose_runner
from model_core.heap import freeze_heap
from model_core.lean import LeanRunner
from model_core.own_thread import in_thread_of_its_own
from model_core.request import Request
from model_core.runner import EncodeReport
from model_core.workers.messages import (
    DUMP_STACKS,
    Admission,
    Call,
    Description,
    Order,
    Raised,
    Stepped,
)

_logger = logging.getLogger(__name__)

_WATCH_S = 0.2


def run_worker(connection: Connection, between: Callable[[], None]) -> None:
    """Serve the process at the other end until it hangs up.

    Args:
        connection: Brings an `Order` first, then `Call` after `Call`; each gets one answer, which
            is `Raised` where something went wrong.
        between: Called after each call.
    """
    faulthandler.register(DUMP_STACKS)  # answers also from within native code
    try:
        order: Order = connection.recv()
        try:
            with _ending_if_hung_up(connection):
                descriptions, runners = _load(order)
        except Exception as error:  # noqa: BLE001  # whoever ordered it says what it means
            connection.send(_raised(error))
            return
        connection.send(descriptions)
        freeze_heap()
        while True:
            call: Call = connection.recv()
            connection.send(_answer(runners, call))
            between()
    except (EOFError, ConnectionError):
        _logger.debug("the server has gone")
    finally:
        gc.unfreeze()  # extensions complain at exit of what was not collected


@contextmanager
def _ending_if_hung_up(connection: Connection) -> Iterator[None]:
    """End the process at once if the other end goes; nothing is sent to it meanwhile."""
    is_over = Event()

    def watch() -> None:
        while not is_over.is_set():
            if connection.poll(_WATCH_S) and not is_over.is_set():
                os._exit(1)

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


@in_thread_of_its_own
def _load(order: Order) -> tuple[dict[str, Description], dict[str, "_Served"]]:
    torch.set_num_threads(order.num_threads)
    descriptions, served = {}, {}
    for name, (location, options) in order.checkpoints.items():
        checkpoint = load_checkpoint(location, options)
        choice = choose_runner(checkpoint, encoder_cache_bytes=order.encoder_cache_bytes)
        if isinstance(choice.runner, LeanRunner):  # what goes through generate() is not kept
            served[name] = _Served(choice.runner)
            descriptions[name] = Description(
                checkpoint.without_model(), choice.family, choice.runner.slot_cost
            )
    return descriptions, served


class _Served:
    """A runner, and the requests that it holds, by their ids."""

    def __init__(self, runner: LeanRunner) -> None:
        self._runner = runner
        self._held: dict[str, Request] = {}

    def admit(self, admissions: tuple[Admission, ...]) -> EncodeReport:
        requests = [Request(*each) for each in admissions]
        self._held.update((each.request_id, each) for each in requests)
        return self._runner.admit(requests)

    def step(self, _: None) -> Stepped:
        report = self._runner.step()
        finished = tuple((request.request_id, output) for request, output in report.finished)
        failed = tuple(request.request_id for request in report.failed)
        for request_id in (*failed, *(request_id for request_id, _ in finished)):
            del self._held[request_id]
        return Stepped(finished, failed, report.num_rows, report.num_steps)

    def remove(self, request_ids: tuple[str, ...]) -> None:
        self._runner.remove([self._held.pop(request_id) for request_id in request_ids])

    def reset(self, _: None) -> None:
        self._held.clear()
        self._runner.reset()


def _answer(runners: dict[str, _Served], call: Call) -> Any:
    # Another number of threads gives the same bits: no sum is shared by two of them.
    if call.num_threads != torch.get_num_threads():
        torch.set_num_threads(call.num_threads)
    try:
        return getattr(runners[call.model], call.method)(call.argument)
    except Exception as error:  # noqa: BLE001  # the engine finds the request at fault
        return _raised(error)


def _raised(error: Exception) -> Raised:
    """An error that can travel, and says where it was raised."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    try:
        pickle.loads(pickle.dumps(error))  # nosec B301  # our own
    except Exception:  # noqa: BLE001  # whatever a class of errors does wrong
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In the worker:\n{frames}")
    return Raised(error)
