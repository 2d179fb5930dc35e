"""How many cores this process may use: by its affinity, and by the quota of its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def local_cpus() -> int:
    """Cores that this process may run on, no more than its container's CPU quota is worth."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    # Half a core of quota is used by a thread that is held back half the time.
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that control groups allow this process.

    Args:
        root: where `proc` and `sys` are; another one in tests.

    Returns:
        The least quota of its groups and of those around them; None where none has one.

    Source:
        Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (cpu.cfs_quota_us).
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the process's control groups of either version, and of the groups around them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux, or no control groups
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        # Version 2 names no controller. A container may see its own group as the root, under a path of the host.
        within = PurePosixPath(path.lstrip("/"))
        for top in [mount / controllers, mount / "cpu"] if controllers else [mount, mount / "unified"]:
            for part in (within, *within.parents):
                yield top / part


def _quota_of(folder: Path) -> float | None:
    """Quota over period of one group; None where it has no quota."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
    except OSError:
        return None
    return int(quota) / int(period) if quota not in ("max", "-1") else None
