"""The quick start shows the answers that its commands really give."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from asgi_lifespan import LifespanManager
from click.testing import CliRunner

from app.cli import main as command_line
from app.factory import create_app
from app.settings import Settings
from tests.app.fakes import client_of

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def shown(name: str) -> tuple[list[str], str]:
    """The command above an answer, as a shell would split it, and the answer."""
    pattern = rf"```sh\n([^`]*)```\n\n<!-- answer: {name} -->\n```\w+\n([^`]*)```"
    found = re.search(pattern, README)
    assert found, name
    return shlex.split(found[1].replace("\\\n", "")), found[2]


def without_scores(answer: Any) -> Any:
    """Scores differ in their last digits from processor to processor."""
    if isinstance(answer, dict):
        return {key: without_scores(value) for key, value in answer.items() if key != "score"}
    return [without_scores(each) for each in answer] if isinstance(answer, list) else answer


@pytest.mark.parametrize("name", ["translate", "summarize"])
async def test_the_answers_of_the_quick_start_are_real(name: str) -> None:
    command, answer = shown(name)
    body = json.loads(command[command.index("-d") + 1])
    app = create_app(Settings())
    async with (
        LifespanManager(app, startup_timeout=60) as manager,
        client_of(manager.app) as client,
    ):
        response = await client.post(f"/{name}", json=body)
    assert without_scores(response.json()) == without_scores(json.loads(answer))


def test_the_command_line_of_the_quick_start_says_what_it_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.logs.configure_logging", lambda: None)
    command, answer = shown("tandem-translate")
    result = CliRunner().invoke(command_line, command[1:])
    assert result.exit_code == 0, result.output
    assert result.stdout == answer
