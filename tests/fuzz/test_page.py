"""The API's own page against the app, by schemathesis: a short run of what `make fuzz` does."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.openapi.loaders import from_asgi
from schemathesis.schemas import BaseSchema
from starlette.types import Receive, Scope, Send

from tests.fuzz.in_process import Fuzzed

CONFIG = Path(__file__).parents[2] / "schemathesis.toml"
PROFILE = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)


@pytest.fixture(scope="module")
def page(fuzzed: Fuzzed) -> BaseSchema:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # the app runs already
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        scope["state"] = dict(fuzzed.client.app_state)
        await fuzzed.client.app(scope, receive, send)

    return from_asgi("/openapi.json", app, config=_without_key(CONFIG))


def _without_key(path: Path) -> SchemathesisConfig:
    """The configuration for a server that everybody may call."""
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    del config["auth"]
    return SchemathesisConfig.from_dict(config)


@pytest.mark.parametrize(
    "operation",
    [
        *("GET /health", "GET /ready", "GET /info", "GET /languages", "GET /metrics"),
        *("POST /translate", "POST /summarize"),
    ],
)
def test_every_operation_answers_as_the_page_says(operation: str, page: BaseSchema) -> None:
    method, path = operation.split()

    @PROFILE
    @given(page[path][method].as_strategy())
    def check(case: "schemathesis.Case[Any]") -> None:
        case.call_and_validate()

    check()


@pytest.mark.filterwarnings("ignore")
def test_what_follows_a_link_answers_as_the_page_says(page: BaseSchema) -> None:
    page.as_state_machine().run(settings=settings(PROFILE, stateful_step_count=4))
