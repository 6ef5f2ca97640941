"""What was measured: a JSON file that is whole after every measurement."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from benchmarks.machine import commit, machine, versions

FEWEST = {50: 1, 95: 16, 99: 80}
"""Answers for a percentile: the largest of fewer is no more than that."""

Measured = dict[str, Any]
"""Mode, workload, system, round, setting, and what came out; see `benchmarks.run`."""


@dataclass
class Results:
    """One run of the suite.

    Attributes:
        path: Where it is written; None in memory only.
        about: Machine, versions, commit, date, plan, workloads, settings of the systems.
        measured: Everything, in order.
        missing: What was not measured, with the reason.
    """

    path: Path | None
    about: dict[str, Any] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def new(cls, path: Path, **about: Any) -> Self:
        """An empty one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        date = datetime.now(UTC).date().isoformat()
        here = {"machine": machine(), "versions": versions(), "commit": commit()}
        return cls(path, {"date": date} | here | about)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file."""
        return cls(path, **json.loads(path.read_text(encoding="utf-8")))

    def check_same(self, **asked: Any) -> None:
        """Refuse to go on elsewhere, or with something else.

        Args:
            asked: What is to be measured, by its name in `about`.

        Raises:
            ValueError: Machine, versions, commit or what is asked for are others.
        """
        here = machine() | {"load_before": self.about["machine"]["load_before"]}
        found = {"machine": here, "versions": versions(), "commit": commit()} | asked
        for name, value in found.items():
            if value != self.about.get(name):
                raise ValueError(f"{name}: expected {self.about.get(name)}, found {value}")

    def add(self, measured: Measured) -> None:
        """Keep a measurement, on disk too."""
        self.measured.append(measured)
        self.write()

    def leave_out(self, workload: str, system: str, mode: str, reason: str) -> None:
        """Note what is not measured, once."""
        entry = {"workload": workload, "system": system, "mode": mode, "reason": reason}
        if entry not in self.missing:
            self.missing.append(entry)
            self.write()

    def write(self) -> None:
        """Replace the file: an interrupted run leaves the last whole one."""
        if self.path is not None:
            unfinished = self.path.with_suffix(".unfinished")
            unfinished.write_text(self.text, encoding="utf-8")
            unfinished.replace(self.path)

    @property
    def text(self) -> str:
        """The file: a line for each measurement."""
        content = {"about": self.about, "measured": self.measured, "missing": self.missing}
        parts = []
        for name, value in content.items():
            if isinstance(value, list):
                lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in value)
                parts.append(f'"{name}": [\n{lines}\n]')
            else:
                parts.append(f'"{name}": {json.dumps(value, indent=1, ensure_ascii=False)}')
        return "{\n" + ",\n".join(parts) + "\n}\n"

    def of(self, mode: str, workload: str | None = None) -> Iterator["Series"]:
        """The rounds of each system and setting, in the order in which they were measured."""
        found: dict[str, Series] = {}
        for each in self.measured:
            if each["mode"] != mode or workload not in (None, each["workload"]):
                continue
            key = json.dumps([each["workload"], each["system"], each["setting"]], sort_keys=True)
            series = Series(each["workload"], each["system"], each["setting"], [])
            found.setdefault(key, series).rounds.append(each)
        yield from found.values()

    @property
    def workloads(self) -> list[str]:
        """Those that anything is known of."""
        return list(dict.fromkeys(each["workload"] for each in [*self.measured, *self.missing]))


@dataclass(frozen=True)
class Series:
    """The rounds of one system in one setting."""

    workload: str
    system: str
    setting: Mapping[str, Any]
    rounds: list[Measured]

    def spread(self, of: Sequence[float]) -> str:
        """Least to most of figures, one for each round."""
        return f"{figure(min(of))} to {figure(max(of))}"

    @property
    def tokens_per_s(self) -> list[float]:
        """Target tokens of each round."""
        return [each["tokens"] / each["seconds"] for each in self.rounds]

    @property
    def requests_per_s(self) -> list[float]:
        """Answers of each round."""
        return [len(each["latencies_s"]) / each["seconds"] for each in self.rounds]

    @property
    def seconds(self) -> list[float]:
        """Of each round."""
        return [each["seconds"] for each in self.rounds]

    @property
    def latencies_s(self) -> list[float]:
        """Of all rounds."""
        return [latency for each in self.rounds for latency in each["latencies_s"]]

    @property
    def is_alone(self) -> bool:
        """Whether a server was set up for one client."""
        return bool(self.setting.get("alone"))

    @property
    def num_failed(self) -> int:
        """Calls without an answer."""
        return sum(each["num_failed"] for each in self.rounds)

    @property
    def sender_was_bottleneck(self) -> bool:
        """Whether the load generator held any round up."""
        return any(each["sender"]["was_bottleneck"] for each in self.rounds)

    def percentile_s(self, percent: int) -> float | None:
        """Latency, over all rounds; None where there are too few answers for it."""
        latencies = self.latencies_s
        if len(latencies) < FEWEST[percent]:
            return None
        if len(latencies) == 1:
            return latencies[0]
        return statistics.quantiles(latencies, n=100, method="inclusive")[percent - 1]


def figure(value: float) -> str:
    """Three digits that count."""
    if value != value:  # not a number
        return ""
    digits = 0 if abs(value) >= 99.5 else 1 if abs(value) >= 9.95 else 2
    return f"{value:.{digits}f}"


def capacity(results: Results, workload: str, system: str) -> float:
    """Requests per second that a server gave at most in a closed loop; 0 where none was run."""
    found = [
        statistics.median(series.requests_per_s)
        for series in results.of("closed", workload)
        if series.system == system
    ]
    return max(found, default=0.0)
