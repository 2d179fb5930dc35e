"""Drivers that stop half way, and what they leave on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.outputs.runs.run import Run


class Stopping(InProcessExecutor):
    """Stops the driver after some shards."""

    def __init__(self, shards: int) -> None:
        super().__init__()
        self._left = shards

    def map(self, function: Any, tasks: Any) -> Iterator[Any]:
        for outcome in super().map(function, tasks):
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
            yield outcome


def hashes(run: Run, pattern: str = "**/*.parquet") -> dict[str, str]:
    """SHA-256 of a run's tables by their path."""
    return {
        file.relative_to(run.folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in Path(run.folder).glob(pattern)
        if "_state" not in file.parts
    }
