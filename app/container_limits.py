"""Processors and memory that this process may use: a container has fewer than its machine."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cpu_quota(cgroup: Path = _CGROUP) -> int | None:
    """Processors that this process may keep busy; None where that is all of the machine's."""
    both = _numbers(cgroup / "cpu.max")  # version 2
    if len(both) != 2:
        both = [
            number
            for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # version 1
            for number in _numbers(cgroup / "cpu" / name)
        ]
    if len(both) != 2 or both[0] < 0:
        return None
    return max(1, round(both[0] / both[1]))


def available_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes of this process: the machine's, or what its control group may have."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _numbers(cgroup / name)
        if limit:
            return min(total, limit[0])
    return total


def _numbers(path: Path) -> list[int]:
    """The numbers in a file of one line; none where there is no such file, or it says `max`."""
    try:
        words = path.read_text(encoding="ascii").split()
    except OSError:
        return []
    return [int(word) for word in words] if "max" not in words else []
