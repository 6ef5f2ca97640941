"""A library behind LitServe with its dynamic batching."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import litserve

from benchmarks.libraries import Answer
from benchmarks.peer_arguments import PeerArguments, body_of, item_of, read_peer_arguments
from benchmarks.workloads import Item

_TIMEOUT_S = 600.0


class Api(litserve.LitAPI):  # type: ignore[misc] # it carries no types
    """Decodes each batch that LitServe has gathered, split by target length."""

    def __init__(self, arguments: PeerArguments) -> None:
        knobs = arguments.knobs
        super().__init__(
            max_batch_size=knobs.max_batch_size,
            batch_timeout=knobs.wait_ms / 1000,
            api_path=f"/{arguments.task}",
        )
        self._arguments = arguments

    def setup(self, device: str) -> None:
        """Load the checkpoint, in the worker's process, which decodes a batch at a time."""
        knobs = replace(self._arguments.knobs, num_workers=1)
        self._library = replace(self._arguments, knobs=knobs).load()

    def decode_request(self, request: dict[str, Any]) -> Item:
        """The request in a body."""
        return item_of(request)

    def batch(self, inputs: Sequence[Item]) -> list[Item]:
        """A list stays one."""
        return list(inputs)

    def predict(self, x: list[Item] | Item) -> list[Answer] | Answer:
        """Answers of one batch; LitServe knows no batches where the largest is one."""
        if isinstance(x, Item):
            return self._library.decode([x])[0]
        return self._library.decode(x)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        """A list stays one."""
        return output

    def encode_response(self, output: Answer) -> dict[str, Any]:
        """The answer as a body."""
        return body_of(output)


def main() -> None:
    """Run from the command line."""
    arguments = read_peer_arguments(__doc__)
    server = litserve.LitServer(
        Api(arguments),
        accelerator="cuda" if arguments.knobs.device == "cuda" else "cpu",
        workers_per_device=arguments.knobs.num_workers,
        timeout=_TIMEOUT_S,
    )
    server.run(
        host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning"
    )


if __name__ == "__main__":
    main()
