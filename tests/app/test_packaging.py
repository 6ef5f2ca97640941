"""What a user installs: the wheel, and what it needs."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
MAX_WHEEL_BYTES = 100 * 10**6
CHECKPOINTS = ("translate-en-de", "summarize-en")
FILES = (
    "model.safetensors",
    "tokenizer.json",
    "config.json",
    "generation_config.json",
    "README.md",
)


WITH_TORCH = {"triton"}
"""Comes with torch's CUDA build, and is imported on CUDA only."""


def imported_packages() -> Iterator[str]:
    """Top-level packages that the wheel's modules import."""
    for path in (*ROOT.glob("app/**/*.py"), *ROOT.glob("model_core/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None
                yield node.module.split(".")[0]


def test_whatever_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {normalized(re.split(r"[<>=!~\[; ]", each)[0]) for each in project["dependencies"]}
    distributions = packages_distributions()
    foreign = set(imported_packages()) - sys.stdlib_module_names - {"app", "model_core"}

    undeclared = {
        package
        for package in foreign - WITH_TORCH
        if not declared & {normalized(each) for each in distributions[package]}
    }

    assert not undeclared


def normalized(name: str) -> str:
    """The name of a distribution as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.slow
def test_the_wheel_holds_the_shipped_checkpoints_and_stays_small(tmp_path: Path) -> None:
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)

    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < MAX_WHEEL_BYTES
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {
        f"app/checkpoints/{checkpoint}/{name}" for checkpoint in CHECKPOINTS for name in FILES
    }
    assert expected <= names
    assert {"app/py.typed", "app/cli.py", "model_core/engine.py"} <= names
