"""What a shard cost the worker that computed it."""

from __future__ import annotations

import resource
import time
from typing import Any

from qkatlas.cluster.executor import Grant


def cost_of(grant: Grant, started: float) -> dict[str, Any]:
    """Measures for a shard's receipt; they identify nothing.

    Args:
        grant: what the worker may use.
        started: `time.perf_counter()` when it began.
    """
    return {
        "seconds": round(time.perf_counter() - started, 4),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "device": grant.device,
        "cpus": grant.cpus,
    }
