"""What the engine needs of a model: the seam between deciding and touching tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from model_core.request import Output, Request


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What one admission cost.

    Attributes:
        num_encoded: Sources that went through the encoder.
        num_cached: Requests that needed no run of the encoder: their source was in the
            encoder-output cache, or came twice.
        source_tokens: Real source tokens that were encoded.
        padded_tokens: Source tokens that were encoded, padding included.
    """

    num_encoded: int = 0
    num_cached: int = 0
    source_tokens: int = 0
    padded_tokens: int = 0

    def __add__(self, other: "EncodeReport") -> "EncodeReport":
        return EncodeReport(
            num_encoded=self.num_encoded + other.num_encoded,
            num_cached=self.num_cached + other.num_cached,
            source_tokens=self.source_tokens + other.source_tokens,
            padded_tokens=self.padded_tokens + other.padded_tokens,
        )


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did.

    Attributes:
        finished: Requests that ended in this step, with their results; they have left the runner.
        num_rows: Hypotheses that went through the decoder; on average, where that was more than one
            step.
        failed: Requests that had no token with a finite score; they have left the runner.
        num_steps: Decoder steps that it was; more than one where a batch runs to its end, and where
            steps were launched while the host was at something else.
    """

    finished: tuple[tuple[Request, Output], ...]
    num_rows: int
    failed: tuple[Request, ...] = ()
    num_steps: int = 1


class ModelRunner(Protocol):
    """Runs one checkpoint. Only the engine's thread calls it, apart from `cost_bytes`."""

    def cost_bytes(self, request: Request) -> int:
        """Cache bytes to reserve for a request from source length, beams and maximum length."""

    def admit(self, requests: Sequence[Request]) -> EncodeReport:
        """Encode the sources and give each request a slot; they take part in the next step."""

    def step(self) -> StepReport:
        """Run one decoder step for every admitted request."""

    def remove(self, requests: Sequence[Request]) -> None:
        """Give up admitted requests (cancelled, expired): their slots are free on return."""

    def reset(self) -> None:
        """Forget every admitted request, for example after a step raised."""
