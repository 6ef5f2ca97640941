"""Work in a thread that ends with it."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
from threading import Thread
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_thread_of_its_own(work: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run each call in a new thread, and wait for it; a signal that ends the process still does."""

    @wraps(work)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        future: Future[_R] = Future()

        def target() -> None:
            try:
                future.set_result(work(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  # raised below, whatever it is
                future.set_exception(error)

        thread = Thread(target=target, name=f"tandem-{work.__name__}", daemon=True)
        thread.start()
        result = future.result()
        thread.join()
        return result

    return run
