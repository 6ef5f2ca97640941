"""The whole app over the shipped checkpoints, in this process, bounded so that calls are short."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.testclient import TestClient

from app.factory import create_app
from app.settings import Settings
from tests.fuzz.answers import Answer, Page

SETTINGS = Settings(
    max_target_tokens=12, max_num_beams=4, default_timeout_s=60, max_source_tokens=256
)


@dataclass(frozen=True)
class Fuzzed:
    """A running app, and what its answers must be."""

    client: TestClient
    page: Page

    def post(self, path: str, body: Any) -> Answer:
        """Send a body and check the answer."""
        return self.post_bytes(path, json.dumps(body).encode())

    def post_bytes(self, path: str, content: bytes) -> Answer:
        """Send what may be no JSON and check the answer."""
        headers = {"Content-Type": "application/json"}
        answer = self.client.post(path, content=content, headers=headers)
        self.page.check("POST", path, answer)
        return answer


@contextmanager
def running(settings: Settings = SETTINGS) -> Iterator[Fuzzed]:
    """The app, with its engine's thread."""
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Fuzzed(client, Page(app.openapi()))
