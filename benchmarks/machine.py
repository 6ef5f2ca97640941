"""Which machine measured, and with which versions."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app.native_libraries import SPIN_COUNT, WAIT_POLICY

_ROOT = Path(__file__).parents[1]
_CODE = ("app", "model_core", "benchmarks", "pyproject.toml", "constraints.txt")
_PACKAGES = (
    "tandem-serve",
    "torch",
    "transformers",
    "tokenizers",
    "ctranslate2",
    "litserve",
    "fastapi",
    "uvicorn",
    "uvloop",
)


def machine() -> dict[str, Any]:
    """Processor, cores, memory, and how busy it was before."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "architecture": platform.machine(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "wait_policy": f"{WAIT_POLICY}, after {SPIN_COUNT} rounds",
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Python and the packages that matter; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The last one that changed what runs, with `-dirty` where it was changed since.

    Empty without git.
    """
    last = _git("log", "-1", "--format=%h")
    return f"{last}-dirty" if last and _git("status", "--porcelain") else last


def _git(*command: str) -> str:
    """What git says of the code that runs: a page or a test in between changes no figure."""
    try:
        found = subprocess.run(
            ["git", *command, "--", *_CODE], cwd=_ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return found.stdout.strip()


def _instructions() -> str:
    """What products of matrices depend on; empty where it is not known."""
    flags = _field("/proc/cpuinfo", "flags").split()
    of_interest = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8")
    return ", ".join(flag for flag in of_interest if flag in flags)


def _field(path: str, name: str) -> str:
    """A field of a file of the kernel; empty where there is none."""
    if not Path(path).exists():
        return ""
    found = re.search(rf"^{name}\s*: (.*)$", Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else ""
