"""Three times what the server can do, for a minute: what it still answers, and how it refuses.

First as many clients as fill its slots, one call after the other, to find out what it can do; then
calls that come whether or not others are answered, at a multiple of that; then few clients again.
"""

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from soak.client import Address, Reply
from soak.server import Server, serving

FLAGS = ("--summarize-model", "none", "--max-running-requests", "32")
_TIMEOUT_S = 5.0
_NOUNS = ("dog", "cat", "house", "river", "station", "coffee", "brother", "book", "garden", "train")
_LEAST_GOODPUT = 0.9  # of the best
_LATEST_REFUSAL_S = 0.05  # 99 of 100
_MOST_GROWTH = 0.05  # of the memory
_SLOWEST_AFTERWARDS = 1.25  # times the latency before

_numbers = itertools.count()


@dataclass
class Phase:
    """The calls of one part of the run.

    Attributes:
        seconds: How long calls were begun.
        replies: Of every call.
        memory: Resident bytes of the server, at regular moments.
        num_begun: Requests that got a slot.
    """

    seconds: float
    replies: list[Reply] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    num_begun: int = 0

    @property
    def goodput(self) -> float:
        """Answers in time per second."""
        return self.statuses[200] / self.seconds

    def seconds_of(self, status: int) -> list[float]:
        """How long each call took that ended so."""
        return [reply.seconds for reply in self.replies if reply.status == status]

    @property
    def statuses(self) -> Counter[int]:
        """How many calls ended in each way."""
        return Counter(reply.status for reply in self.replies)


def body() -> dict[str, object]:
    """A call that nobody has made before."""
    rng = random.Random(number := next(_numbers))
    words = " and the ".join(rng.choices(_NOUNS, k=rng.randint(1, 6)))
    text = f"The {words} are near number {number}."
    return {"text": text, "parameters": {"num_beams": 4}, "timeout_s": _TIMEOUT_S}


async def closed_loop(address: Address, num_clients: int, seconds: float) -> Phase:
    """So many clients that call one after the other."""
    phase = Phase(seconds)
    end = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < end:
            phase.replies.append(await address.post("/translate", body()))

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return phase


async def open_loop(server: Server, calls_per_s: float, seconds: float) -> Phase:
    """Calls that come at random moments, so many each second, whatever becomes of them."""
    phase, rng = Phase(seconds), random.Random(1)
    calls: list[asyncio.Task[Reply]] = []
    begun_before = int(await server.total("tandem_queue_seconds_count"))
    next_call, started = 0.0, time.perf_counter()
    while (now := time.perf_counter() - started) < seconds:
        if now >= len(phase.memory):
            phase.memory.append(server.resident_bytes)
        while next_call <= now:
            calls.append(asyncio.ensure_future(server.address.post("/translate", body())))
            next_call += rng.expovariate(calls_per_s)
        await asyncio.sleep(max(0.0, next_call - now))
    phase.replies = list(await asyncio.gather(*calls))
    phase.num_begun = int(await server.total("tandem_queue_seconds_count")) - begun_before
    return phase


@dataclass
class Report:
    """Before, under and after overload."""

    before: Phase
    best: Phase
    overload: Phase
    after: Phase

    @property
    def growth(self) -> float:
        """By what part memory grew from the second third of the overload to its last."""
        memory = self.overload.memory
        third = max(1, len(memory) // 3)
        return statistics.mean(memory[-third:]) / statistics.mean(memory[third : 2 * third]) - 1

    @property
    def latencies_s(self) -> tuple[float, float]:
        """Median of the answers before and after."""
        before, after = self.before.seconds_of(200), self.after.seconds_of(200)
        return percentile(before, 50), percentile(after, 50)

    def lines(self) -> Sequence[str]:
        """What was measured."""
        refusals = self.overload.seconds_of(503)
        before_ms, after_ms = (1000 * seconds for seconds in self.latencies_s)
        return (
            f"best: {self.best.goodput:.1f} answers/s, {dict(self.best.statuses)}",
            f"overload: {self.overload.goodput:.1f} answers/s, {dict(self.overload.statuses)}, "
            f"{self.overload.num_begun} begun",
            f"refusals: p50 {1000 * percentile(refusals, 50):.0f} ms, "
            f"p99 {1000 * percentile(refusals, 99):.0f} ms",
            f"memory grew by {self.growth:+.2%}",
            f"latency p50: {before_ms:.0f} ms before, {after_ms:.0f} ms after",
        )

    def problems(self) -> list[str]:
        """Promises that were not kept."""
        before_s, after_s = self.latencies_s
        latest_s = percentile(self.overload.seconds_of(503), 99)
        kept = {
            "goodput": self.overload.goodput >= _LEAST_GOODPUT * self.best.goodput,
            "refusals": latest_s <= _LATEST_REFUSAL_S,
            "memory": self.growth <= _MOST_GROWTH,
            "latency afterwards": after_s <= _SLOWEST_AFTERWARDS * before_s,
            "an answer to all": not {0, 500} & self.overload.statuses.keys(),
        }
        return [name for name, is_kept in kept.items() if not is_kept]


def percentile(seconds: Sequence[float], percent: int) -> float:
    """Of some durations; 0 where there are none."""
    if len(seconds) < 2:
        return seconds[0] if seconds else 0.0
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


async def run(server: Server, num_clients: int, factor: float, seconds: float) -> Report:
    """All phases, one after the other."""
    part_s = seconds / 3
    await closed_loop(server.address, num_clients, part_s)  # warms up
    before = await closed_loop(server.address, 2, part_s)
    best = await closed_loop(server.address, num_clients, part_s)
    overload = await open_loop(server, factor * best.goodput, seconds)
    after = await closed_loop(server.address, 2, part_s)
    return Report(before, best, overload, after)


def main() -> None:
    """Run from the command line; ends with an error where a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--num-clients", type=int, default=48)
    parser.add_argument("--factor", type=float, default=3.0)
    arguments = parser.parse_args()
    with serving("app", *FLAGS) as server:
        report = asyncio.run(
            run(server, arguments.num_clients, arguments.factor, arguments.seconds)
        )
    print("\n".join(report.lines()))
    problems = report.problems()
    sys.exit(f"not kept: {', '.join(problems)}" if problems else 0)


if __name__ == "__main__":
    main()
