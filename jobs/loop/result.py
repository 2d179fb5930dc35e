"""How a submission ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qkatlas.cluster.executor import Failure
from qkatlas.outputs.runs.run import Run


@dataclass(frozen=True)
class Result:
    """How a submission ended."""

    run: Run
    failures: Mapping[str, Failure]
    """Shards that could not be computed, by name; empty if the run is complete."""
    computed: int
    """Shards computed by this submission."""
    seconds: Mapping[str, float]
    """Wall-clock seconds of each stage."""
