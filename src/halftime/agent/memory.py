"""The memory that a process may use: the kernel's estimate, within the limits of its groups."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Union

_GROUPS = Path("/sys/fs/cgroup")
_LIMITS_OF_MEMORY = (("memory.max", "memory.current"),
                     ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # fmt: skip


def available_bytes() -> int:
    """Memory that a new process could take: the kernel's estimate, within the cgroup's limit."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for group in groups_of("memory"):
        for most, held in _LIMITS_OF_MEMORY:
            limit, used = first_line(group / most), first_line(group / held)
            if limit.isdigit() and used.isdigit():
                free = int(limit) - int(used) + _cached_files(group)
                available = min(available, max(free, 0))
    return available


def _cached_files(group: Path) -> int:
    """What of a group's memory holds files that were read, and is given back when it is wanted."""
    try:
        words = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
    except OSError:
        return 0
    known = {name: int(value) for name, value in words}
    return known.get("total_inactive_file", known.get("inactive_file", 0))


def groups_of(controller: str) -> Iterator[Path]:
    """The control groups that this process is in, from its own up to the root's.

    A job of SLURM or systemd has its limit on a group in between. Source: cgroups(7).
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _GROUPS / controllers if controllers else _GROUPS
        own = root / place.lstrip("/")
        while own != root and root in own.parents:
            yield own
            own = own.parent
        yield root


def first_line(path: Union[str, Path]) -> str:
    """The first line of a file; '' where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip()
    except OSError:
        return ""
