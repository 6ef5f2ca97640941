"""The one table of systems: what decodes, what serves, and with which settings.

The settings of the peers are those that did best in `python -m benchmarks sweep`, whose table is
in docs/performance.md: two batches side by side. A request that is alone may be answered faster by
all threads together, so that a server with these is measured for one client, too.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.libraries import CTranslate2, Knobs, Library, Tandem, Transformers
from benchmarks.limits import Products
from benchmarks.workloads import Task

Command = Callable[["System", Path, Task, int], list[str]]


@dataclass(frozen=True)
class System:
    """One way to answer requests.

    Attributes:
        library: What decodes.
        knobs: Its settings.
        server: Makes the command of its server, None where it is a library only.
        offline: Its settings where all requests are there at once, if they are others.
        alone: Those of its server where one client is all there is, if others are better then.
        decodes_offline: Whether it is measured offline too, or only as a server.
        ready_path: Answers 200 once the server is ready.
        is_ours: Tandem, as against its peers.
    """

    library: type[Library]
    knobs: Knobs
    server: Command | None = None
    offline: Knobs | None = None
    alone: Knobs | None = None
    decodes_offline: bool = True
    ready_path: str = "/health"
    is_ours: bool = False

    def knobs_for(self, mode: "Mode", setting: Mapping[str, Any]) -> Knobs:
        """Its settings for a mode and a setting of `Measurement`."""
        if mode in ("offline", "steps"):  # one process for both
            return self.offline or self.knobs
        if setting.get("alone"):
            return self.alone or self.knobs
        return self.knobs

    def command(self, folder: Path, task: Task, port: int) -> list[str]:
        """Starts the server on 127.0.0.1."""
        assert self.server is not None
        return self.server(self, folder, task, port)


def _tandem_server(system: System, folder: Path, task: Task, port: int) -> list[str]:
    other: dict[Task, Task] = {"translate": "summarize", "summarize": "translate"}
    flags = {
        "port": str(port),
        f"{task}-model": str(folder),
        f"{other[task]}-model": "none",
        "dtype": system.knobs.dtype,
        "device": system.knobs.device,
        # A closed loop of slow systems outlasts the default; all get the same.
        "default-timeout-s": "600",
        # Nobody is to answer from memory: some texts come twice.
        "encoder-cache-bytes": "0",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "app", "serve", *words]


def _peer_server(module: str) -> Command:
    def command(system: System, folder: Path, task: Task, port: int) -> list[str]:
        flags = {
            "library": LIBRARIES_BY_CLASS[system.library],
            "folder": str(folder),
            "task": task,
            "port": str(port),
            "knobs": json.dumps(asdict(system.knobs)),
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        return [sys.executable, "-m", module, *words]

    return command


_BATCHING = _peer_server("benchmarks.batching_server")
_LITSERVE = _peer_server("benchmarks.litserve_server")
_TOGETHER = Knobs(length_slack=0.25)
_SIDE_BY_SIDE = replace(_TOGETHER, num_threads=1, num_workers=_TOGETHER.num_threads)
_OURS = System(Tandem, Knobs(), _tandem_server, _SIDE_BY_SIDE, ready_path="/ready", is_ours=True)
_CTRANSLATE2 = System(CTranslate2, _SIDE_BY_SIDE, _BATCHING, alone=_TOGETHER)

LIBRARIES: dict[str, type[Library]] = {
    "tandem": Tandem,
    "transformers": Transformers,
    "ctranslate2": CTranslate2,
    "products": Products,
}
LIBRARIES_BY_CLASS = {library: name for name, library in LIBRARIES.items()}

SYSTEMS: dict[str, System] = {
    "tandem": _OURS,
    "tandem-int8": replace(
        _OURS, knobs=Knobs(dtype="int8"), offline=replace(_SIDE_BY_SIDE, dtype="int8")
    ),
    "transformers": System(Transformers, _SIDE_BY_SIDE),
    "fastapi": System(Transformers, Knobs(max_batch_size=1), _BATCHING, decodes_offline=False),
    "litserve": System(
        Transformers, _SIDE_BY_SIDE, _LITSERVE, alone=_TOGETHER, decodes_offline=False
    ),
    "ctranslate2": _CTRANSLATE2,
    "ctranslate2-int8": replace(
        _CTRANSLATE2,
        knobs=replace(_SIDE_BY_SIDE, dtype="int8"),
        alone=replace(_TOGETHER, dtype="int8"),
    ),
    "products": System(Products, Knobs(), offline=_SIDE_BY_SIDE),
}
"""`products` is the limit: matrix products alone."""

Mode = Literal["offline", "steps", "closed", "open"]


def systems_for(mode: Mode) -> list[str]:
    """The systems that can be measured in a mode."""
    if mode == "offline":
        return [name for name, system in SYSTEMS.items() if system.decodes_offline]
    if mode == "steps":
        return [name for name, each in SYSTEMS.items() if each.is_ours or name == "products"]
    return [name for name, system in SYSTEMS.items() if system.server is not None]
