"""The server process: binds, loads, serves, drains."""

import asyncio
import faulthandler
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from threading import Thread
from types import FrameType

import uvicorn

from app.api_keys import ApiKeys
from app.connection import connections_with, most_connections
from app.factory import create_app
from app.freed_memory import FreedMemory
from app.metrics_port import serve_metrics
from app.opening import open_service
from app.service import TextService
from app.settings import Settings
from app.signals import exit_on_signals
from app.watchdog import Watchdog
from model_core.heap import freeze_heap

logger = logging.getLogger(__name__)

_LAST_ANSWERS_S = 5  # after draining, for answers on their way to slow clients
# The engine's thread takes the interpreter for microseconds at a time, between operations that run
# without it, and waits so long for it each time: Python's 5 ms cost a third of the throughput under
# overload.
_SWITCH_INTERVAL_S = 0.0005

_ROUNDS_UNTIL_FULL = 200  # of the garbage collector: under full load, most of a minute


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; returns once what was in flight has ended.

    A second signal ends the process at once.

    Args:
        settings: What the operator set.
        announce: Called with one line when the server is ready.

    Raises:
        OSError: The address cannot be bound, or nothing can be announced.
        CheckpointError: A checkpoint cannot be loaded.
        SystemExit: The server did not start, or has lost its device; the log says why.
    """
    # While loading, and once uvicorn has shut down: it then repeats the signal.
    exit_on_signals()
    faulthandler.enable()  # a crash in native code says where
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # Before the weights: a port in use fails fast.
    with _bind(settings.host, settings.port) as listener:
        _serve(listener, settings, announce)


def _serve(listener: socket.socket, settings: Settings, announce: Callable[[str], None]) -> None:
    keys = ApiKeys.of(settings)
    service = open_service(settings, has_workers=True)
    config = uvicorn.Config(
        create_app(settings, lambda: service, keys=keys),
        h11_max_incomplete_event_size=settings.max_header_bytes,
        log_config=None,
        access_log=False,  # it would log client addresses
        server_header=False,
        lifespan="on",
        http=connections_with(
            receive_s=settings.receive_s,
            send_s=settings.send_s,
            max_connections=most_connections(),
        ),
        ws="none",
        loop="uvloop",
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    ready = partial(announce, f"Tandem is ready at http://{address}")
    if keys.has_file:
        # On a thread: the signal may come in the middle of a line of the log.
        signal.signal(signal.SIGHUP, lambda *_: Thread(target=keys.reload).start())
    if settings.metrics_port:
        serve_metrics(settings, service.metrics)
    server = _Server(config, service, settings, ready)
    try:
        server.run(sockets=[listener])
    finally:
        gc.unfreeze()  # extensions complain at exit of what was not collected
    if server.failure:
        raise server.failure
    if not server.started or service.is_lost:
        sys.exit(1)


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready and which drains before it shuts down.

    uvicorn itself closes its listener and idle connections at once, so nobody would learn that
    the server is draining, and it answers what it cuts off with a bare 500.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: TextService,
        settings: Settings,
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._service = service
        self._settings = settings
        self._ready = ready
        self.failure: OSError | None = None
        self._watchdog = Watchdog(service)
        self._freed_memory = FreedMemory()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _freeze_heap()
            self._announce()

    def _announce(self) -> None:
        try:
            self._ready()
        except OSError as error:
            reason = f"cannot write to standard output: {error.strerror}"
            self.failure = OSError(error.errno, reason)
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        self._watchdog.look()
        if self._freed_memory.is_due:
            await asyncio.to_thread(self._freed_memory.give_back)
        return self._service.is_lost or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if signal.SIGTERM in self._captured_signals:
            await self._leave()
        logger.info("draining")
        drain_s = self._settings.drain_s
        if not await self._service.drain(drain_s):
            logger.warning("calls in flight after %g s end with an error", drain_s)
            await self._service.close()
        await super().shutdown(sockets)
        logger.info("stopped")

    async def _leave(self) -> None:
        """Give load balancers the time to see that calls should go elsewhere."""
        logger.info("leaving")
        self._service.leave()
        await asyncio.sleep(self._settings.lame_duck_s)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        super().handle_exit(sig, frame)


def _freeze_heap() -> None:
    """Let the garbage collector pass over what stays for good, and seldom over what stays long.

    To look through a loaded server takes a quarter of a second, in which nothing else happens;
    through hundreds of calls in flight it takes 60 ms.
    """
    freeze_heap()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _ROUNDS_UNTIL_FULL)


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        reason = f"cannot listen on {host}:{port} (TANDEM_HOST, TANDEM_PORT): {error.strerror}"
        raise OSError(error.errno, reason) from error
    return listener
