"""A worker process of `tandem serve`: `python -m app.worker LOG_FORMAT SOCKET`."""

import faulthandler
import os
import signal
import sys
from multiprocessing.connection import Connection

from app.native_libraries import set_up_native_libraries

set_up_native_libraries()  # before torch is imported, hence the late imports below

_NICENESS = 10
"""Where cores lack, the server goes first: it needs little, and every client waits for it."""


def main() -> None:
    """Run checkpoints for the server at the other end of a socket, until that hangs up.

    A signal to the whole group of processes is the server's to obey: it may have calls to finish.
    """
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    faulthandler.enable()  # a crash in native code says where
    os.nice(_NICENESS)
    from app.freed_memory import FreedMemory
    from app.logs import configure_logging
    from model_core.workers.loop import run_worker

    log_format, descriptor = sys.argv[1:]
    configure_logging("json" if log_format == "json" else "text")
    freed_memory = FreedMemory()
    with Connection(int(descriptor)) as connection:
        run_worker(connection, freed_memory.give_back_if_due)


if __name__ == "__main__":
    main()
