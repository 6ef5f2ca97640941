"""The server process: binds, loads, serves, drains."""

import logging
import math
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn

from app.factory import create_app
from app.opening import open_service
from app.service import TextService
from app.settings import Settings

logger = logging.getLogger(__name__)


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; returns once what was in flight has ended.

    Args:
        settings: What the operator set.
        announce: Called with one line when the server is ready.

    Raises:
        OSError: The address cannot be bound.
        CheckpointError: A checkpoint cannot be loaded.
    """
    listener = _bind(settings.host, settings.port)  # before the weights: a port in use fails fast
    service = open_service(settings)
    config = uvicorn.Config(
        create_app(settings, lambda: service),
        log_config=None,
        access_log=False,  # it would log client addresses
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
    )
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    ready = partial(announce, f"Tandem is ready at http://{address}")
    # uvicorn repeats the signal once it has shut down: that must end the process with 0.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, _exit)
    _Server(config, service, ready).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready and when it begins to drain."""

    def __init__(
        self, config: uvicorn.Config, service: TextService, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logger.info("draining")
        self._service.start_draining()
        await super().shutdown(sockets)
        logger.info("stopped")


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _exit(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(0)
