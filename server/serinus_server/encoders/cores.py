"""How many cores are ours: a container's CPU limit is not its node's core count, and a runtime that takes the latter thrashes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_CPU_INFO: Final = Path("/proc/cpuinfo")


def cores(limit: int = 0) -> int:
    """Cores that this process may use, at least 1: its affinity, its control group's quota, and `limit` unless that is 0."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        if quota != "max":
            allowed = min(allowed, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no control group of version 2: the affinity is all there is to know
    return max(1, min(allowed, limit or allowed))


def cpu_flags() -> frozenset[str]:
    """The CPU's instruction sets as Linux names them, e.g. avx512_bf16; empty where it does not say."""
    try:
        lines = _CPU_INFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
