"""Runs what the tools on PATH allow, and says loudly what they do not."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from deployment.verify.chart import check_chart
from deployment.verify.compose import check_compose
from deployment.verify.image import IMAGE, check_image
from deployment.verify.pod import check_pods
from deployment.verify.report import Report, run

_PARTS = ("chart", "image", "compose")


def main() -> None:
    """Exit status 1 if something that was run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--picture", type=Path, help="draw the dashboard into this file")
    arguments = parser.parse_args()
    parts = arguments.parts or _PARTS
    report = Report()
    has_helm = shutil.which("helm") is not None
    if "chart" in parts:
        if has_helm:
            check_chart(report)
        else:
            report.skip("chart", "there is no helm on PATH")
    if shutil.which("docker") and run(["docker", "info"]).returncode == 0:
        _check_with_docker(report, parts, has_helm, arguments.picture)
    else:
        what = "image, Compose and the chart's Pods"
        report.skip(what, "there is no docker on PATH whose engine answers")
    sys.exit(report.close())


def _check_with_docker(
    report: Report, parts: Sequence[str], has_helm: bool, picture: Path | None
) -> None:
    is_built = check_image(report) if "image" in parts else _is_there(IMAGE)
    if not is_built:
        report.skip("Compose and the chart's Pods", f"there is no image {IMAGE}")
        return
    if "chart" in parts and has_helm:
        check_pods(report)
    if "compose" in parts:
        if run(["docker", "compose", "version"]).returncode:
            report.skip("Compose", "there is no docker compose, version 2")
        else:
            check_compose(report, picture)


def _is_there(image: str) -> bool:
    return run(["docker", "image", "inspect", image]).returncode == 0


if __name__ == "__main__":
    main()
