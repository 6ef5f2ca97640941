"""The engine's side: worker processes, and model runners whose tensors are in one."""

import logging
import os
import signal
import socket
import subprocess  # nosec B404  # our own command
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from operator import attrgetter
from threading import Lock
from typing import Any

from model_core.encoder import CPU_BATCHES
from model_core.errors import WorkerKilledError, WorkerLostError, WorkerRestartedError
from model_core.request import Request
from model_core.runner import EncodeReport, StepReport
from model_core.slot_cost import SlotCost
from model_core.workers.messages import (
    DUMP_STACKS,
    Call,
    Description,
    Method,
    Order,
    Raised,
    Stepped,
)

_logger = logging.getLogger(__name__)

_SHORT_CALL = CPU_BATCHES.max_tokens  # of sources
_ATTEMPTS = 3  # to start a worker again: memory may lack for the moment
_LAST_STEP_S = 2.0  # for a worker to see that its engine has hung up


class Worker:
    """One process that has loaded checkpoints. Only the engine's thread calls it, once it is up.

    A process that ends by itself (killed, or crashed in native code) is started again by whichever
    of its runners is reset first.
    """

    def __init__(self, command: Sequence[str], order: Order, threads: "ThreadShare") -> None:
        """Describe it; `start` starts it.

        Args:
            command: Runs `run_worker` on the socket whose number comes as its last argument.
            order: What it loads.
            threads: What it shares with other workers.
        """
        self._command = tuple(command)
        self._order = order
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._connection: Connection | None = None
        self._lock = Lock()  # of what starts and what closes
        self._is_closed = False
        self.is_ready = False
        """Whether it has loaded, and has not ended since, as far as is known."""
        self.generation = 0
        """How many times it was started."""
        self.num_held = 0
        """Requests that its runners hold."""
        threads.workers.append(self)

    @property
    def is_alive(self) -> bool:
        """Whether it can be called."""
        return self._connection is not None

    @property
    def pid(self) -> int | None:
        """Of its process; None before it was started."""
        return None if self._process is None else self._process.pid

    def dump_stacks(self) -> None:
        """Have the process write to standard error where it is, if it has loaded; see `loop`.

        Called from any thread.
        """
        process = self._process  # first: what is ready now is this one, or this one is over
        if process is not None and self.is_ready:
            process.send_signal(DUMP_STACKS)

    def open(self) -> None:
        """Let it be started again after it was closed."""
        self._is_closed = False

    def start(self) -> None:
        """Start the process; it loads while this one goes on.

        Raises:
            WorkerLostError: It was closed.
        """
        with self._lock:
            if self._is_closed:
                raise WorkerLostError("the worker was closed")
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(  # nosec B603  # no shell, our own command
                    [*self._command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    # It is to find the very modules that this process has found.
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            self._socket = ours
            self._connection = Connection(os.dup(ours.fileno()))
            self.generation += 1
        self._send(self._order)

    def descriptions(self) -> Mapping[str, Description]:
        """Wait until it has loaded; what it keeps of that, by name.

        Raises:
            CheckpointError: A checkpoint cannot be loaded.
            WorkerLostError: The process ended.
        """
        descriptions: Mapping[str, Description] = self._receive()
        self.is_ready = True
        return descriptions

    def call(self, model: str, method: Method, argument: Any = None) -> Any:
        """Have one call done, by name of the checkpoint.

        Raises:
            WorkerLostError: The process has ended.
            Exception: Whatever the runner raised there.
        """
        self._send(Call(model, method, argument, self._threads.of_one))
        return self._receive()

    def restart(self) -> None:
        """Start another process in its place, and wait until it has loaded.

        Raises:
            CheckpointError: A checkpoint cannot be loaded any more.
            WorkerLostError: The process ended again.
        """
        _logger.warning("a worker is started again")
        for attempts_left in reversed(range(_ATTEMPTS)):
            self._end()
            try:
                self.start()
                self.descriptions()
            except WorkerLostError:
                if self._is_closed or not attempts_left:
                    raise
            else:
                break
        _logger.warning("the worker is ready again")

    def close(self) -> None:
        """End the process, after its call or without it; nobody starts another until `open`.

        Called from any thread: whoever waits for an answer gets an error instead.
        """
        self.hang_up()
        self._end()

    def hang_up(self) -> None:
        """Let the process end, and do not wait for that; see `close`."""
        with self._lock:
            self._is_closed = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # the other end has gone
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    def _end(self) -> bool:
        """End the process; whether it had to be killed."""
        self.is_ready = False
        with self._lock:  # whoever closes it may do the same meanwhile
            self._shut_down()
        self._connection = None  # closed by whoever may still wait for it
        if self._process is None:
            return False
        try:
            self._process.wait(_LAST_STEP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return True
        return False

    def _connected(self) -> Connection:
        if self._connection is None:
            raise WorkerLostError("the worker has ended")
        return self._connection

    def _send(self, message: Any) -> None:
        connection = self._connected()
        try:
            connection.send(message)
        except OSError as error:
            raise self._lost() from error

    def _receive(self) -> Any:
        connection = self._connected()
        try:
            answer = connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if isinstance(answer, Raised):
            raise answer.error
        return answer

    def _lost(self) -> WorkerLostError:
        """Why there is no answer; the process has ended, or is as good as that."""
        was_killed_here = self._end()
        assert self._process is not None
        status = self._process.returncode
        if status == -signal.SIGKILL and not was_killed_here:
            return WorkerKilledError("the worker was killed")
        return WorkerLostError(f"the worker ended with status {status}")


def _parts(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """An admission in calls that are short, for each of which threads are shared out anew.

    In order of length, so that sources that may share an encoder batch stay together.
    """
    part: list[Request] = []
    num_tokens = 0
    for request in sorted(requests, key=attrgetter("source_len")):
        if part and num_tokens + request.source_len > _SHORT_CALL:
            yield part
            part, num_tokens = [], 0
        part.append(request)
        num_tokens += request.source_len
    if part:
        yield part


class ThreadShare:
    """Threads of torch, for those workers that have something to do.

    Several threads share every small product of a step and wait for each other in between; a
    thread for each worker does more. A worker that is alone at work gets all of them.

    Args:
        num_threads: All of them.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self.workers: list[Worker] = []

    @property
    def of_one(self) -> int:
        """Threads for each worker that is at work now."""
        num_busy = sum(worker.num_held > 0 for worker in self.workers)
        return max(1, self._num_threads // max(1, num_busy))


class RemoteRunner:
    """The model runner of a checkpoint that is in a worker.

    A worker that was started again, for whichever of its checkpoints, holds nothing: then every
    call fails until `reset`, so that what was held is run again.
    """

    def __init__(self, worker: Worker, name: str, slot_cost: SlotCost) -> None:
        self._worker = worker
        self._name = name
        self._slot_cost = slot_cost
        self._held: dict[str, Request] = {}
        self._generation = worker.generation

    def cost_bytes(self, request: Request) -> int:
        """See `ModelRunner`."""
        return self._slot_cost.of(request)

    def admit(self, requests: Sequence[Request]) -> EncodeReport:
        """See `ModelRunner`."""
        if not self._held:
            self._generation = self._worker.generation
        self._hold(requests)
        report = EncodeReport()
        for part in _parts(requests):
            admissions = tuple((each.request_id, each.source_ids, each.parameters) for each in part)
            report += self._call("admit", admissions)
        return report

    def step(self) -> StepReport:
        """See `ModelRunner`."""
        stepped = self._call("step")
        assert isinstance(stepped, Stepped)
        finished = tuple((self._held[each], output) for each, output in stepped.finished)
        failed = tuple(self._held[each] for each in stepped.failed)
        self._let_go([*failed, *(request for request, _ in finished)])
        return StepReport(finished, stepped.num_rows, failed, stepped.num_steps)

    def remove(self, requests: Sequence[Request]) -> None:
        """See `ModelRunner`."""
        self._call("remove", tuple(each.request_id for each in requests))
        self._let_go(requests)

    def reset(self) -> None:
        """See `ModelRunner`; a worker that has ended is started again."""
        self._let_go(list(self._held.values()))
        if self._worker.is_alive and self._generation == self._worker.generation:
            with suppress(WorkerLostError):
                self._worker.call(self._name, "reset")
        if not self._worker.is_alive:
            self._worker.restart()
        self._generation = self._worker.generation

    def _call(self, method: Method, argument: Any = None) -> Any:
        if self._generation != self._worker.generation:
            raise WorkerRestartedError("the worker was started again")
        return self._worker.call(self._name, method, argument)

    def _hold(self, requests: Sequence[Request]) -> None:
        self._held.update((each.request_id, each) for each in requests)
        self._worker.num_held += len(requests)

    def _let_go(self, requests: Sequence[Request]) -> None:
        for request in requests:
            del self._held[request.request_id]
        self._worker.num_held -= len(requests)
