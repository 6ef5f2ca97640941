"""Streams, events and captured graphs: all that only a GPU can run, behind what a CPU can too."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Part = Callable[[], Tensor]
"""A part of a step over buffers with fixed addresses; what it gives lies at a fixed address too."""


class Mark(Protocol):
    """A place in a stream of work."""

    def is_reached(self) -> bool:
        """Whether the device has done everything before it."""


class Fetched(Protocol):
    """A small tensor on its way to the host."""

    def is_there(self) -> bool:
        """Whether it has arrived."""

    def get(self) -> Tensor:
        """The tensor, on the host; blocks until it is there."""


class Device(Protocol):
    """Where a runner works: three streams of work, of which a CPU does one after the other.

    Decoding must never wait for an encoder pass, nor for the host to look at a result.
    """

    def decoding(self) -> AbstractContextManager[Any]:
        """Work of steps, in order."""

    def encoding(self) -> AbstractContextManager[Any]:
        """Work of admissions, beside the steps."""

    def reading(self) -> AbstractContextManager[Any]:
        """Work that looks at what a step left, once that is known to be over.

        What it reads must be on the host when it ends: the memory goes back to the decoding.
        """

    def mark(self) -> Mark:
        """Here, in the stream of the work at hand."""

    def follow(self, mark: Mark) -> None:
        """Let the work at hand begin once a mark of another stream is reached."""

    def fetch(self, tensor: Tensor) -> Fetched:
        """Start to copy a tensor to the host."""

    def capture(self, part: Part) -> Part:
        """The same as one launch; it runs now, so nothing may depend on what it changes."""

    def synchronize(self) -> None:
        """Wait for everything; raises what went wrong before."""


class _Reached:
    """A mark of work that is done when the call returns."""

    def is_reached(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class _Here:
    """A tensor that is on the host, but says so only when it is asked for.

    As late as a GPU can be: what that leads to shall be seen on a CPU.
    """

    tensor: Tensor

    def is_there(self) -> bool:
        return False

    def get(self) -> Tensor:
        return self.tensor


class HostDevice:
    """A CPU: everything is done at once, in order."""

    def decoding(self) -> AbstractContextManager[Any]:
        """See `Device`."""
        return nullcontext()

    def encoding(self) -> AbstractContextManager[Any]:
        """See `Device`."""
        return nullcontext()

    def reading(self) -> AbstractContextManager[Any]:
        """See `Device`."""
        return nullcontext()

    def mark(self) -> Mark:
        """See `Device`."""
        return _Reached()

    def follow(self, mark: Mark) -> None:
        """See `Device`."""

    def fetch(self, tensor: Tensor) -> Fetched:
        """See `Device`."""
        return _Here(tensor.clone())

    def capture(self, part: Part) -> Part:
        """See `Device`: the part itself."""
        return part

    def synchronize(self) -> None:
        """See `Device`."""


class _EventMark:
    def __init__(self) -> None:
        self.event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.event.record()

    def is_reached(self) -> bool:
        return bool(self.event.query())

    def wait(self) -> None:
        self.event.synchronize()


class _Pinned:
    def __init__(self, tensor: Tensor) -> None:
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._copied = _EventMark()

    def is_there(self) -> bool:
        return self._copied.is_reached()

    def get(self) -> Tensor:
        self._copied.wait()
        return self._host


class CudaDevice:
    """A GPU.

    Args:
        device: Which one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        urgent = -1
        self._decode_stream = _stream(device, urgent)
        self._encode_stream = _stream(device)
        self._read_stream = _stream(device, urgent)
        self._graph_memory = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize(device)  # weights and caches were made on another stream

    def decoding(self) -> AbstractContextManager[Any]:
        """See `Device`."""
        return torch.cuda.stream(self._decode_stream)

    def encoding(self) -> AbstractContextManager[Any]:
        """See `Device`."""
        return torch.cuda.stream(self._encode_stream)

    def reading(self) -> AbstractContextManager[Any]:
        """See `Device`."""
        return torch.cuda.stream(self._read_stream)

    def mark(self) -> Mark:
        """See `Device`."""
        return _EventMark()

    def follow(self, mark: Mark) -> None:
        """See `Device`."""
        assert isinstance(mark, _EventMark)
        torch.cuda.current_stream(self._device).wait_event(mark.event)

    def fetch(self, tensor: Tensor) -> Fetched:
        """See `Device`: to pinned memory."""
        return _Pinned(tensor)

    def capture(self, part: Part) -> Part:
        """See `Device`: a CUDA graph. All graphs share one memory: they never run side by side."""
        part()  # compiles kernels and sets workspaces up, which a graph cannot
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._graph_memory, stream=self._decode_stream):
            result = part()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def synchronize(self) -> None:
        """See `Device`."""
        torch.cuda.synchronize(self._device)


def _stream(device: torch.device, priority: int = 0) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=priority)  # type: ignore[no-untyped-call]


def device_for(device: torch.device) -> Device:
    """Streams and graphs on CUDA, nothing of the kind elsewhere."""
    return CudaDevice(device) if device.type == "cuda" else HostDevice()
