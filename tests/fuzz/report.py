"""What a long run found, as a table of docs/operations.md."""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
RESULT = DOCS / "fuzz.json"
PAGE = DOCS / "operations.md"
_TABLE = re.compile(r"(?<=<!-- fuzz -->\n).*(?=<!-- end of fuzz -->)", re.DOTALL)


def table_of(result: dict[str, Any]) -> str:
    """The table, each stage a row, and their sum."""
    stages = [*result.values()]
    rows = [
        f"| {each['name']} | {each['inputs']:,} | {each['seconds']:.0f} s | {each['seed']} | "
        f"{len(each['findings']) or 'none'} |"
        for each in stages
    ]
    inputs, seconds = (sum(each[name] for each in stages) for name in ("inputs", "seconds"))
    findings = sum(len(each["findings"]) for each in stages)
    rows.append(f"| all | {inputs:,} | {seconds:.0f} s | | {findings or 'none'} |")
    head = "| what is fuzzed | inputs | time | seed | findings |\n| --- | --- | --- | --- | --- |\n"
    return head + "\n".join(rows) + "\n"


def write_page() -> None:
    """Put the table of the last full run into the page."""
    table = table_of(json.loads(RESULT.read_text(encoding="utf-8")))
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_TABLE.sub(lambda _: table, page), encoding="utf-8")


def shown() -> str:
    """The table that the page shows."""
    found = _TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert found
    return found[0]
