"""What the engine tells whoever measures it."""

from typing import Literal, Protocol

from model_core.request import Output
from model_core.runner import EncodeReport

Outcome = Literal["finished", "failed", "expired", "cancelled"]


class EngineObserver(Protocol):
    """Receives what happens, model by model.

    `admitted`, `encoded` and `stepped` come from the engine's thread, `coalesced` from the
    caller's, `ended` from the thread that ended the request. None is called with a lock held;
    none may raise or take long.
    """

    def admitted(self, model: str, queue_s: float) -> None:
        """A request left the queue after so many seconds."""

    def encoded(self, model: str, report: EncodeReport, seconds: float) -> None:
        """New requests went through the encoder and got their slots."""

    def stepped(self, model: str, num_rows: int, seconds: float) -> None:
        """One decoder step was run for so many hypotheses."""

    def coalesced(self, model: str) -> None:
        """A caller joined an identical request in flight: one encoder run avoided."""

    def ended(self, model: str, outcome: Outcome, output: Output | None) -> None:
        """One caller's request ended; called exactly once for every accepted submission.

        Args:
            model: The checkpoint.
            outcome: How it ended.
            output: The result where it finished, else None.
        """


class NullObserver:
    """An observer that looks away."""

    def admitted(self, model: str, queue_s: float) -> None:
        """Do nothing."""

    def encoded(self, model: str, report: EncodeReport, seconds: float) -> None:
        """Do nothing."""

    def stepped(self, model: str, num_rows: int, seconds: float) -> None:
        """Do nothing."""

    def coalesced(self, model: str) -> None:
        """Do nothing."""

    def ended(self, model: str, outcome: Outcome, output: Output | None) -> None:
        """Do nothing."""
