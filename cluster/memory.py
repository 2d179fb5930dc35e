"""How much memory a process has held."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_memory() -> int:
    """Return the most memory that was resident in this process at once, in bytes.

    Source:
        Linux, proc_pid_status(5): VmHWM. `getrusage` would not do where there is another choice: it counts what the
        process that started this one held before it made room for this program.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # not Linux, or a sandbox without the field
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
