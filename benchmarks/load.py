"""The load generator, run as a process of its own.

Reads one JSON object from standard input, writes one to standard output: see `Load` and `run`.
A closed loop has so many clients that each send one request after another; an open loop sends
each request at its time, whatever has become of the others.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT_S = 600.0
_LATE_SHARE = 0.1
_BUSY_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send.

    Attributes:
        url: Of the endpoint.
        bodies: One request each.
        concurrency: Clients of a closed loop; None for an open one.
        arrivals_s: When each request of an open loop is sent, from the start.
    """

    url: str
    bodies: Sequence[dict[str, Any]]
    concurrency: int | None = None
    arrivals_s: Sequence[float] = ()


@dataclass(frozen=True)
class _Call:
    """Seconds from the start; `tokens` is None where the call failed."""

    due_s: float
    sent_s: float
    ended_s: float
    tokens: int | None


async def run(load: Load, transport: httpx.AsyncBaseTransport | None = None) -> dict[str, Any]:
    """Send everything, over the network or another transport.

    Returns:
        `latencies_s` of what was answered, from the time when it was due, in the order of the
        requests; `tokens` of the answers; `num_failed`; `seconds` until the last answer; `sender`:
        how late its own sends were, its share of a core, and whether it was the bottleneck.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, transport=transport) as http:
        await http.get(load.url)  # so that imports and look-ups are done
        cpu, started = time.process_time(), time.perf_counter()
        if load.concurrency is not None:
            calls = await _closed_loop(http, load, started)
        else:
            calls = await _open_loop(http, load, started)
        seconds = time.perf_counter() - started
        cpu_share = (time.process_time() - cpu) / seconds
    answered = [call for call in calls if call.tokens is not None]
    latencies = [call.ended_s - call.due_s for call in answered]
    return {
        "seconds": seconds,
        "latencies_s": [round(latency, 4) for latency in latencies],
        "tokens": sum(call.tokens or 0 for call in answered),
        "num_failed": len(calls) - len(answered),
        "sender": _sender([call.sent_s - call.due_s for call in calls], latencies, cpu_share),
    }


def _sender(
    lateness_s: Sequence[float], latencies_s: Sequence[float], cpu_share: float
) -> dict[str, Any]:
    """What the load generator says of itself."""
    late = max(lateness_s, default=0.0)
    typical = sorted(latencies_s)[len(latencies_s) // 2] if latencies_s else 0.0
    is_late = bool(latencies_s) and late > _LATE_SHARE * typical
    return {
        "max_lateness_s": round(late, 4),
        "cpu_share": round(cpu_share, 3),
        "was_bottleneck": is_late or cpu_share > _BUSY_SHARE,
    }


async def _closed_loop(http: httpx.AsyncClient, load: Load, started: float) -> list[_Call]:
    waiting = iter(load.bodies)
    assert load.concurrency is not None
    clients = [_client(http, load.url, waiting, started) for _ in range(load.concurrency)]
    return [call for calls in await asyncio.gather(*clients) for call in calls]


async def _client(
    http: httpx.AsyncClient, url: str, waiting: Iterator[dict[str, Any]], started: float
) -> list[_Call]:
    return [
        await _call(http, url, body, started, time.perf_counter() - started) for body in waiting
    ]


async def _open_loop(http: httpx.AsyncClient, load: Load, started: float) -> list[_Call]:
    calls = []
    for body, due_s in zip(load.bodies, load.arrivals_s, strict=True):
        await asyncio.sleep(max(0.0, due_s - (time.perf_counter() - started)))
        calls.append(asyncio.create_task(_call(http, load.url, body, started, due_s)))
    return list(await asyncio.gather(*calls))


async def _call(
    http: httpx.AsyncClient, url: str, body: dict[str, Any], started: float, due_s: float
) -> _Call:
    sent_s = time.perf_counter() - started
    tokens = None
    try:
        response = await http.post(url, json=body)
        if response.is_success:
            tokens = response.json()["usage"]["generated_tokens"]
    except httpx.HTTPError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return _Call(due_s, sent_s, time.perf_counter() - started, tokens)


def main() -> None:
    """Run from the command line."""
    result = asyncio.run(run(Load(**json.load(sys.stdin))))
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
