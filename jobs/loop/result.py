"""How a submission ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qkatlas.cluster.executor import Failure
from qkatlas.outputs.runs.run import Run


class IncompleteError(Exception):
    """A run lacks shards that could not be computed; what was committed is kept."""


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

    def require_complete(self) -> Run:
        """The run, with all its shards.

        Raises:
            IncompleteError: if some could not be computed.
        """
        if self.failures:
            raise IncompleteError(
                f"{len(self.failures)} shards failed, tracebacks in {self.run.failure_log}; the others are kept, "
                "submit the same request again to compute only these"
            )
        return self.run
