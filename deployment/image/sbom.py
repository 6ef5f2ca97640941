"""Adds the system's packages to a bill of materials of Python packages: `make sbom`.

Runs inside the build of the image, with the standard library alone.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_FORMAT = "${Package}\t${Version}\t${Architecture}\n"


def debian_components(listing: str) -> list[dict[str, str]]:
    """CycloneDX components of what `dpkg-query` lists as name, version, architecture."""
    components = []
    for line in listing.splitlines():
        name, version, architecture = line.split("\t")
        url = f"pkg:deb/debian/{name}@{version}?arch={architecture}"
        components.append(
            {"type": "library", "name": name, "version": version, "purl": url, "bom-ref": url}
        )
    return components


def main() -> None:
    """Print the bill of materials in the file that is named, with the system's packages."""
    bill: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    command = ["dpkg-query", "--show", "--showformat", _FORMAT]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    bill["components"] += debian_components(listing)
    json.dump(bill, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
