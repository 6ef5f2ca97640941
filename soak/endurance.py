"""Many mixed requests: hung up, out of time, at fault, refused; at the end everything adds up."""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from soak.client import Reply
from soak.server import Server, serving

FLAGS = (
    *("--max-running-requests", "32", "--max-waiting-requests", "64"),
    *("--encoder-cache-bytes", "4194304"),
)
MODULE = "tests.app.faulty_server"
"""The real server, with faults where a text asks for one, if it decodes in its own process."""
_WORDS = [
    *("the", "old", "station", "is", "near", "a", "small", "river"),
    *("and", "my", "brother", "works", "there", "with", "his", "dog"),
]
_OUTCOMES = {200: "finished", 422: "invalid", 429: "refused", 503: "refused", 504: "expired"}
_LONGEST_PAUSE_S = 0.5  # of a client that was refused: less than it was asked for
_SAMPLE_EVERY_S = 1.0
_LEAST_SAMPLES = 200  # else a window is no longer than freed memory is kept, and says nothing
_SETTLING_PARTS = 4  # of the run, one is left out: caches fill, kernels for all numbers of rows
_WINDOWS = 5  # of what is left; see `app/freed_memory.py`
_MOST_GROWTH = 0.05  # of the memory, over the rest of the run


@dataclass
class Report:
    """What the clients saw, and what the server says.

    Attributes:
        num_calls: Calls made.
        outcomes: Of those that were answered, as the server's metrics name them.
        num_hung_up: Calls whose client left; each may have ended in any way, or never begun.
        num_unanswered: Calls whose connection ended without an answer, and without being asked to.
        counted: How many requests ended in each way, by the server's metrics.
        left: What the server still holds of each kind at the end.
        memory: Resident bytes, at each second of the run.
    """

    num_calls: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    num_hung_up: int = 0
    num_unanswered: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What does not add up; whatever depends on time or on the machine is left out."""
        found = [f"{name} is {value:g} at the end" for name, value in self.left.items() if value]
        if self.num_unanswered:
            found.append(f"{self.num_unanswered} calls got no answer")
        answered = sum(self.outcomes.values())
        if answered + self.num_hung_up + self.num_unanswered != self.num_calls:
            found.append(f"{self.num_calls} calls were made")
        surplus = {
            outcome: number - self.outcomes[outcome] for outcome, number in self.counted.items()
        }
        if min(surplus.values()) < 0 or sum(surplus.values()) > self.num_hung_up:
            found.append(f"the server counts {self.counted}, its clients {dict(self.outcomes)}")
        return found

    @property
    def growth(self) -> float:
        """By what part the memory grew after the caches had filled.

        A line through its lowest points: freed memory that is kept for a while is no growth, and
        whatever is lost lifts the lowest points too.
        """
        settled = self.memory[len(self.memory) // _SETTLING_PARTS :]
        size = len(settled) // _WINDOWS
        lowest = [min(settled[size * at : size * (at + 1)]) for at in range(_WINDOWS)]
        return statistics.linear_regression(range(_WINDOWS), lowest).slope * _WINDOWS / lowest[0]

    @property
    def is_growing(self) -> bool:
        """Whether the memory grew by more than what varies from moment to moment."""
        return self.growth > _MOST_GROWTH

    @property
    def tells_growth(self) -> bool:
        """Whether the run was long enough to tell."""
        return len(self.memory) >= _LEAST_SAMPLES


class Clients:
    """Clients that call until so many calls were made; each restarts now and then."""

    def __init__(self, server: Server, num_calls: int, seed: int, kill_every: int = 0) -> None:
        self._server = server
        self._kill_every = kill_every
        self._left = num_calls
        self._next_sample = time.monotonic()
        self._random = random.Random(seed)
        self.report = Report()

    async def run(self, num_clients: int) -> None:
        """Make all calls."""
        await asyncio.gather(*(self._client() for _ in range(num_clients)))

    async def _client(self) -> None:
        while self._left > 0:
            self._left -= 1
            self.report.num_calls += 1
            self._sample()
            if self._kill_every and self.report.num_calls % self._kill_every == 0:
                self._server.kill_a_worker()
            await self._call()

    def _sample(self) -> None:
        if time.monotonic() >= self._next_sample:
            self.report.memory.append(self._server.resident_bytes)
            self._next_sample += _SAMPLE_EVERY_S

    async def _call(self) -> None:
        path, body = self._draw()
        calling = asyncio.ensure_future(self._server.address.post(path, body))
        if self._random.random() < 0.15:
            await asyncio.wait([calling], timeout=self._random.uniform(0.0, 0.3))
            if not calling.done():
                calling.cancel()
                await asyncio.gather(calling, return_exceptions=True)
                self.report.num_hung_up += 1
                return
        reply = await calling
        self._count(reply)
        if reply.retry_after_s:
            await asyncio.sleep(self._random.uniform(0.0, _LONGEST_PAUSE_S))

    def _count(self, reply: Reply) -> None:
        if reply.status == 0:
            self.report.num_unanswered += 1
        else:
            self.report.outcomes[_OUTCOMES.get(reply.status, "failed")] += 1

    def _draw(self) -> tuple[str, dict[str, object]]:
        """Some call: one text, for nearly all; of the others each is a way to go wrong."""
        rng = self._random
        text = " ".join(rng.choices(_WORDS, k=rng.randint(1, 30)))
        parameters: dict[str, object] = {"num_beams": rng.choice([1, 1, 2, 4])}
        body: dict[str, object] = {"text": text, "parameters": parameters}
        match rng.choices(
            ["plain", "hasty", "fault", "invalid", "bulk", "drawn"], [60, 10, 5, 5, 10, 10]
        ):
            case ["hasty"]:
                body["timeout_s"] = rng.uniform(0.001, 0.5)
            case ["fault"]:
                body["text"] = f"fault {rng.choice(['nan', 'processor', 'memory'])} {text}"
            case ["invalid"]:
                body["text"] = 400 * text + " river"
            case ["bulk"]:
                body["priority"] = "bulk"
            case ["drawn"]:
                parameters |= {"do_sample": True, "seed": rng.randint(0, 3)}
        return rng.choice(["/translate", "/translate", "/summarize"]), body


async def run(
    server: Server, num_calls: int, num_clients: int, seed: int, kill_every: int = 0
) -> Report:
    """Make the calls and ask the server what it has counted.

    Args:
        server: It has just been started.
        num_calls: All of them.
        num_clients: So many call at a time.
        seed: Decides what they ask for.
        kill_every: After so many calls a worker is killed; 0 kills none.
    """
    clients = Clients(server, num_calls, seed, kill_every)
    await clients.run(num_clients)
    report = clients.report
    for name in ("tandem_running_requests", "tandem_waiting_requests", "tandem_reserved_bytes"):
        report.left[name] = await _settled(server, name)
    names = ("finished", "failed", "cancelled", "expired", "refused", "invalid")
    report.counted = {
        name: int(await server.total("tandem_requests_total", f'outcome="{name}"'))
        for name in names
    }
    return report


async def _settled(server: Server, name: str) -> float:
    """A gauge once it is zero, or after some asking: calls that were left end within a step."""
    for _ in range(100):
        if not await server.total(name):
            return 0.0
        await asyncio.sleep(0.05)
    return await server.total(name)


def main() -> None:
    """Run from the command line; ends with an error where something does not add up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-requests", type=int, default=10_000)
    parser.add_argument("--num-clients", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0, help="0: with faults in the process")
    parser.add_argument("--kill-every", type=int, default=0, help="calls, then a worker is killed")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument(
        "--leak-bytes",
        type=int,
        default=0,
        help="lost at each text, to see that the run then fails",
    )
    arguments = parser.parse_args()
    print(f"SEED={arguments.seed}", flush=True)
    leak = {"FAULTY_LEAK_BYTES": str(arguments.leak_bytes)}
    flags = (*FLAGS, "--workers", str(arguments.workers))
    with serving(MODULE, *flags, **leak) as server:
        report = asyncio.run(
            run(
                server,
                arguments.num_requests,
                arguments.num_clients,
                arguments.seed,
                arguments.kill_every,
            )
        )
    problems = report.problems()
    if not report.tells_growth:
        print(f"{len(report.memory)} s say nothing of the memory: {_LEAST_SAMPLES} s would")
    elif report.is_growing:
        problems.append(f"the memory grew by {report.growth:.1%}")
    print(f"{report.num_calls} calls, {report.num_hung_up} hung up: {dict(report.outcomes)}")
    print(f"server: {report.counted}")
    mebibytes = [each // (1 << 20) for each in report.memory[:: len(report.memory) // 8 or 1]]
    growth = f", grew by {report.growth:+.2%}" if report.tells_growth else ""
    print(f"memory: {mebibytes} MiB{growth}")
    sys.exit("; ".join(problems) or 0)


if __name__ == "__main__":
    main()
