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

FLAGS = ("--summarize-model", "none", "--workers", "2", "--max-running-requests", "16")
_TIMEOUT_S = 5.0
_NOUNS = ("dog", "cat", "house", "river", "station", "coffee", "brother", "book", "garden", "train")
_LEAST_GOODPUT = 0.9  # of the best
_LATEST_REFUSAL_S = 0.05  # 99 of 100
_MOST_GROWTH = 0.05  # of the memory
_SLOWEST_AFTERWARDS = 1.25  # times the latency before
_LATEST_SEND_S = 0.01  # 99 of 100; later, what the clients see says little of the server

_numbers = itertools.count()


@dataclass
class Phase:
    """The calls of one part of the run.

    Attributes:
        seconds: How long calls were begun.
        started: `time.perf_counter()` at the beginning.
        replies: Of every call.
        memory: Resident bytes of the server, at regular moments.
        num_begun: Requests that got a slot.
        refused_s: How long each refusal took the server, by its log.
        late_s: By how much each call was sent later than it was due.
        sender_share: What the clients took of a core.
    """

    seconds: float
    started: float = field(default_factory=time.perf_counter)
    replies: list[Reply] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    num_begun: int = 0
    refused_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    sender_share: float = 0.0

    @property
    def goodput(self) -> float:
        """Answers per second; those that came after the last call was begun do not count."""
        end = self.started + self.seconds
        in_time = [each for each in self.replies if each.status == 200 and each.ended_at < end]
        return len(in_time) / self.seconds

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
    next_call, busy_s = 0.0, time.process_time()
    num_refused = len(server.seconds_of(503))
    phase.started = time.perf_counter()
    while (now := time.perf_counter() - phase.started) < seconds:
        if now >= len(phase.memory):
            phase.memory.append(server.resident_bytes)
        while next_call <= now:
            calls.append(asyncio.ensure_future(server.address.post("/translate", body())))
            phase.late_s.append(now - next_call)
            next_call += rng.expovariate(calls_per_s)
        await asyncio.sleep(max(0.0, next_call - now))
    phase.sender_share = (time.process_time() - busy_s) / seconds
    phase.replies = list(await asyncio.gather(*calls))
    phase.refused_s = server.seconds_of(503)[num_refused:]
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
        over, best = self.overload, self.best
        before_ms, after_ms = (1000 * seconds for seconds in self.latencies_s)
        return (
            f"best: {best.goodput:.1f} answers/s, {dict(best.statuses)}",
            f"overload: {over.goodput:.1f} answers/s ({over.goodput / best.goodput:.0%}), "
            f"{dict(over.statuses)}, {over.num_begun} begun",
            f"answers: {_spread(over.seconds_of(200))}",
            f"refusals as clients see them: {_spread(over.seconds_of(503))}",
            f"refusals by the server's log: {_spread(over.refused_s)}",
            f"sent later than due: {_spread(over.late_s)}; {over.sender_share:.0%} of a core",
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
            "calls on time": percentile(self.overload.late_s, 99) <= _LATEST_SEND_S,
        }
        return [name for name, is_kept in kept.items() if not is_kept]


def _spread(seconds: Sequence[float]) -> str:
    parts = [f"p{percent} {1000 * percentile(seconds, percent):.0f}" for percent in (50, 95, 99)]
    return f"{' ms, '.join(parts)} ms, max {1000 * max(seconds, default=0.0):.0f} ms"


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
