"""docs/operations.md names a proof for what it promises; here they are looked for."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))


def test_every_test_that_the_page_names_is_there() -> None:
    names = re.findall(r"`((?:test_|Test)\w+)`", PAGE)
    assert len(names) > 40
    for name in names:
        assert re.search(rf"^(?:(?:async )?def {name}\b|{name} = )", TESTS, re.MULTILINE), name


def test_every_file_that_the_page_names_is_there() -> None:
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", PAGE):
        assert list(ROOT.glob(name)) or list((ROOT / "tests").rglob(name)), name


def test_every_promise_names_its_proof() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    promises = [
        paragraph
        for section in sections
        if section.startswith(("Load", "Faults"))
        for paragraph in section.strip().split("\n\n")[1:]
    ]
    assert len(promises) > 15
    for promise in promises:
        assert re.search(r"\[`.*\]\s*$", promise, re.DOTALL), promise
