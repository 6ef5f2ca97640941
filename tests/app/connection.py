"""A client on the other side of ASGI."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp


class Connection:
    """One request, by a client that may hang up."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self._path = path
        self._body = json.dumps(body).encode()
        self._is_body_sent = False
        self._hung_up = asyncio.Event()
        self.sent: list[MutableMapping[str, Any]] = []

    @property
    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("client", 1),
            "server": ("tandem", 80),
        }

    def hang_up(self) -> None:
        self._hung_up.set()

    async def call(self, app: ASGIApp) -> None:
        await app(self.scope, self.receive, self.send)

    async def receive(self) -> MutableMapping[str, Any]:
        if not self._is_body_sent:
            self._is_body_sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)
