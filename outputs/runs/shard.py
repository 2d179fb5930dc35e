"""Shards: the fixed pieces a run is computed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shard:
    """One piece of a run: computed whole by one worker, committed whole, and known by its name.

    Attributes:
        name: unique in its plan.
        group: shards of one group share one prepared input, and may only stand together if it was the same.
        bounds: what the piece covers, for example layer, head, first and last row.
        kind: the step that computes it. Plans that were made before there were kinds have none, so that it takes no
            part in comparisons.
    """

    name: str
    group: str
    bounds: Mapping[str, int]
    kind: str = field(default="", compare=False)

    @property
    def rows(self) -> slice[int, int, None]:
        """The rows that it covers, from `start` to `stop`."""
        return slice(self.bounds["start"], self.bounds["stop"])

    def as_json(self) -> dict[str, Any]:
        """The shard as a JSON object."""
        return {"name": self.name, "group": self.group, **({"kind": self.kind} if self.kind else {}), **self.bounds}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Shard:
        """Read a shard from the object that `as_json` made; what a manifest says of it besides is left out.

        Raises:
            KeyError: if the name or the group is missing.
        """
        bounds = {key: value for key, value in entry.items() if isinstance(value, int)}
        kind = entry.get("kind", "")
        if isinstance(kind, int):  # before there were kinds: which of the sequences
            bounds["sequence"] = bounds.pop("kind")
            kind = ""
        return cls(entry["name"], entry["group"], bounds, kind)
