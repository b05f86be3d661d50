"""The memory that is free: that of the card, or that of the machine within the limit of its container."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.system import machine, processes

if TYPE_CHECKING:
    from collections.abc import Callable

_MACHINE, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free() -> float | None:
    """Return the free bytes of what this process computes on; None where that is unknown."""
    if processes.is_on_gpu():
        from paddle.base import core

        available: Callable[[], int] = vars(core)["gpu_memory_available"]  # the build for the CPU has none
        return float(available())
    known = [each for each in (_of_machine(_MACHINE), _of_group(_GROUP)) if each is not None]
    return min(known, default=None)


def _of_machine(file: Path) -> float | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", machine.text_of(file), re.MULTILINE)
    return int(found[1]) * 1024.0 if found else None


def _of_group(group: Path) -> float | None:
    """Return what a control group leaves; a container sees its own as the root. Cached files give way."""
    for limit, usage, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, used = machine.text_of(group / limit).strip(), machine.text_of(group / usage).strip()
        if most.isdecimal() and used.isdecimal():
            statistics = machine.text_of((group / usage).with_name("memory.stat"))
            found = re.search(rf"^{cached} (\d+)", statistics, re.MULTILINE)
            return max(0.0, int(most) - int(used) + (int(found[1]) if found else 0))
    return None
