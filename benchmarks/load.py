"""A load generator, run as a process of its own: clients that each send one text after another.

Prints one JSON object: seconds of the whole run, and seconds of each call.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator

import httpx

from benchmarks.workload import texts

_TIMEOUT_S = 600.0


async def run(url: str, sources: list[str], num_clients: int, num_beams: int) -> dict[str, object]:
    """Send every source once, by so many clients at a time."""
    waiting = iter(sources)
    latencies: list[float] = []
    limits = httpx.Limits(max_connections=num_clients)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits) as http:
        started = time.perf_counter()
        await asyncio.gather(
            *(_client(http, waiting, num_beams, latencies) for _ in range(num_clients))
        )
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "latencies_s": latencies}


async def _client(
    http: httpx.AsyncClient, waiting: Iterator[str], num_beams: int, latencies: list[float]
) -> None:
    for source in waiting:
        body = {"text": source, "parameters": {"num_beams": num_beams}, "timeout_s": _TIMEOUT_S}
        started = time.perf_counter()
        response = await http.post("/translate", json=body)
        latencies.append(time.perf_counter() - started)
        response.raise_for_status()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--num-clients", type=int, required=True)
    parser.add_argument("--num-requests", type=int, required=True)
    parser.add_argument("--num-beams", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    sources = texts(arguments.num_requests, arguments.seed)
    result = asyncio.run(run(arguments.url, sources, arguments.num_clients, arguments.num_beams))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
