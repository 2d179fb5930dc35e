"""Numbers about the work on a shard; they identify nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from qkatlas.outputs.runs.record import Entry


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What a shard cost, and how much was in it; None where its job does not count it.

    Attributes:
        seconds: wall-clock seconds of the whole shard.
        scoring_seconds: of them for the scores.
        writing_seconds: of them for the tables.
        scores: scores computed.
        pairs: pairs of tokens counted.
        tokens: tokens in the graph.
        edges: edges of the graph.
        isolated_tokens: tokens without one.
        tokens_short_of_neighbours: tokens with fewer neighbours than were asked for.
        communities: communities found.
        quality: quality of the partition.
        peak_memory_mb: the worker's highest resident memory, MiB.
        device: what it computed on, such as `cpu`.
        cpus: cores it might use.
        more: what another version counted besides.
    """

    seconds: float | None = None
    scoring_seconds: float | None = None
    writing_seconds: float | None = None
    scores: int | None = None
    pairs: int | None = None
    tokens: int | None = None
    edges: int | None = None
    isolated_tokens: int | None = None
    tokens_short_of_neighbours: int | None = None
    communities: int | None = None
    quality: float | None = None
    peak_memory_mb: int | None = None
    device: str | None = None
    cpus: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The measures as a JSON object of those that there are."""
        return {name: value for name in _KNOWN if (value := getattr(self, name)) is not None} | dict(self.more)

    @classmethod
    def of(cls, entry: Entry) -> Measures:
        """Read measures.

        Raises:
            ShapeError: if one is of another kind.
        """
        known: dict[str, Any] = {name: entry.maybe_whole(name) for name in _WHOLE}
        known |= {name: entry.maybe_number(name) for name in _NUMBERS}
        more = {name: value for name, value in entry.anything().items() if name not in _KNOWN}
        return cls(**known, device=entry.maybe_text("device"), more=more)


_KNOWN = tuple(one.name for one in fields(Measures) if one.name != "more")
_NUMBERS = ("seconds", "scoring_seconds", "writing_seconds", "quality")
_WHOLE = tuple(name for name in _KNOWN if name not in (*_NUMBERS, "device"))
