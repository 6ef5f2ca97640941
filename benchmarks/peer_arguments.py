"""What the command lines of the peers' servers have in common."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.libraries import Answer, Knobs, Library
from benchmarks.systems import LIBRARIES
from benchmarks.workloads import Item, Task
from model_core.heap import freeze_heap


@dataclass(frozen=True)
class PeerArguments:
    """What to serve, and where."""

    library: type[Library]
    folder: Path
    task: Task
    port: int
    knobs: Knobs

    def load(self) -> Library:
        """The library with its checkpoint."""
        library = self.library(self.folder, self.task, self.knobs)
        freeze_heap()  # as our server does
        return library


def read_peer_arguments(description: str | None) -> PeerArguments:
    """From the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--library", choices=LIBRARIES, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--task", choices=("translate", "summarize"), required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--knobs", type=json.loads, default={})
    given = parser.parse_args()
    knobs = Knobs(**given.knobs)
    return PeerArguments(LIBRARIES[given.library], given.folder, given.task, given.port, knobs)


def item_of(body: dict[str, Any]) -> Item:
    """The request in a body of Tandem's form."""
    return Item.of(body["text"], body["parameters"])


def body_of(answer: Answer) -> dict[str, Any]:
    """An answer in the part of Tandem's form that the load generator reads."""
    return {"text": answer.text, "usage": {"generated_tokens": answer.num_tokens}}
