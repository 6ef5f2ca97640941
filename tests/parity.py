"""Our answers against those of `generate()`, with every excused tie counted and shown."""

from dataclasses import dataclass, field

from model_core.request import Output
from model_core.verification.compare import compare
from model_core.verification.near_tie import explain
from model_core.verification.reference import Reference, generate_alone

__all__ = ["TALLY", "assert_same", "generate_alone"]


@dataclass
class Tally:
    """What this test run compared, and what it excused."""

    num_comparisons: int = 0
    num_drawn_runs: int = 0
    excused: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.num_comparisons += other.num_comparisons
        self.num_drawn_runs += other.num_drawn_runs
        self.excused += other.excused

    def summary(self) -> str:
        return f"near-ties excused: {len(self.excused)} of {self.num_comparisons} comparisons"


TALLY = Tally()


def assert_same(output: Output, reference: Reference) -> None:
    """Equal tokens, finish reasons and scores, or a tie that is shown."""
    TALLY.num_comparisons += 1
    found = compare(output, reference)
    if found.is_same:
        return
    ties = explain(reference, output) if found.difference is not None else None
    assert ties is not None, f"{found}\n{reference.asked.source_ids}\n{reference.asked.parameters}"
    TALLY.excused += [str(tie) for tie in ties]
