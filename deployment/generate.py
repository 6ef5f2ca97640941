"""`python -m deployment.generate`: writes what is made from the service, `--check` compares it."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from deployment.chart import CHART, readme, setting_defaults, values_schema
from deployment.dashboard import dashboard
from deployment.sizing import sizing_table

PAGE = Path(__file__).parents[1] / "docs" / "deployment.md"
_TABLE = re.compile(r"(?<=<!-- sizes -->\n).*?(?=<!-- end of sizes -->)", re.DOTALL)


def generated() -> dict[Path, str]:
    """Contents of the generated files."""
    return {
        CHART / "values.schema.json": _json(values_schema()),
        CHART / "files" / "settings.json": _json(setting_defaults()),
        CHART / "files" / "dashboard.json": _json(dashboard()),
        CHART / "README.md": readme(),
        PAGE: _TABLE.sub(lambda _: sizing_table() + "\n", PAGE.read_text(encoding="utf-8")),
    }


def stale() -> list[Path]:
    """Files that are not as they would be generated."""
    return [
        path
        for path, text in generated().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the files, or only say which ones are stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if stale")
    is_check = parser.parse_args().check
    found = stale()
    for path in found:
        sys.stdout.write(f"{path}: {'stale' if is_check else 'written'}\n")
        if not is_check:
            path.write_text(generated()[path], encoding="utf-8")
    sys.exit(1 if is_check and found else 0)


if __name__ == "__main__":
    main()
