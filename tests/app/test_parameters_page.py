"""`docs/parameters.md` lists exactly what is served, its bounds, and what is refused."""

import re
from pathlib import Path

from app.schemas import Parameters
from model_core.bounds import BOUNDS
from model_core.generation import NOT_SERVED

PAGE = (Path(__file__).parents[2] / "docs" / "parameters.md").read_text("utf-8")


def bound_of(name: str) -> str:
    return str(BOUNDS[name]) if name in BOUNDS and name != "do_sample" else ""


def test_the_page_lists_exactly_the_parameters() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) ?\| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (name, bound_of(name), info.description) for name, info in Parameters.model_fields.items()
    ]


def test_the_page_says_what_is_refused_and_why() -> None:
    rows = re.findall(r"^\| (`.+`) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    refused = {name: reason for names, reason in rows for name in re.findall(r"`(\w+)`", names)}
    assert refused == NOT_SERVED
