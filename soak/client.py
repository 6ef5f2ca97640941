"""A client of few instructions, so that thousands of calls leave the cores to the server."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call ended.

    Attributes:
        status: Of the answer; 0 where the connection ended without one.
        body: Of the answer.
        seconds: From the connection to the end of the answer.
        retry_after_s: What the answer asks for; 0 where it does not.
        ended_at: `time.perf_counter()` at its end.
    """

    status: int
    body: bytes
    seconds: float
    retry_after_s: int = 0
    ended_at: float = 0.0


class Address:
    """Where a server listens, for calls on connections of their own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80

    async def post(self, path: str, body: Mapping[str, object]) -> Reply:
        """Send one call and wait for its end."""
        return await self._call("POST", path, json.dumps(body).encode())

    async def get(self, path: str) -> Reply:
        """Ask for one page."""
        return await self._call("GET", path, b"")

    async def _call(self, method: str, path: str, body: bytes) -> Reply:
        started = time.perf_counter()
        try:
            answer = await self._exchange(self._head(method, path, len(body)) + body)
        except OSError:
            answer = b""
        return _reply(answer, started, time.perf_counter())

    async def _exchange(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()

    def _head(self, method: str, path: str, content_length: int) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {content_length}",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"


def _reply(answer: bytes, started: float, ended: float) -> Reply:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    named = [field.partition(b":") for field in fields]
    headers = {name.lower(): value.strip() for name, _, value in named}
    code = int(status.split()[1]) if status else 0
    retry_after_s = int(headers.get(b"retry-after", b"0"))
    return Reply(code, body, ended - started, retry_after_s, ended)
