"""Plan and manifest: what a run will consist of, and what it consisted of when it was finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qkatlas.outputs.runs.identity import Request
from qkatlas.outputs.runs.measures import Measures
from qkatlas.outputs.runs.part import Part
from qkatlas.outputs.runs.provenance import Provenance
from qkatlas.outputs.runs.record import Entry, ShapeError
from qkatlas.outputs.runs.shard import Shard

FORMAT = 1
"""Version of the layout of both."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will consist of, fixed at its first submission.

    Attributes:
        request: what was asked for.
        shards: the pieces it is computed in.
    """

    request: Request
    shards: tuple[Shard, ...]

    def as_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        shards = [shard.as_json() for shard in self.shards]
        return {"format": FORMAT, **self.request.as_json(), "shards": shards}

    @classmethod
    def of(cls, entry: Entry) -> Plan:
        """Read a plan.

        Raises:
            ShapeError: if it is none, or holds a shard twice.
        """
        _require_format(entry)
        shards = tuple(_shard(one) for one in entry.entries("shards"))
        _require_once([shard.name for shard in shards], "shard")
        return cls(request=Request.of(entry), shards=shards)


@dataclass(frozen=True, kw_only=True)
class CommittedShard:
    """A shard of a finished run.

    Attributes:
        shard: what it covers.
        inputs: hash of the prepared input it was computed from.
        measures: what it cost.
    """

    shard: Shard
    inputs: str
    measures: Measures

    def as_json(self) -> dict[str, Any]:
        """The shard as a JSON object."""
        return {**self.shard.as_json(), "inputs_sha256": self.inputs, "measures": self.measures.as_json()}

    @classmethod
    def of(cls, entry: Entry) -> CommittedShard:
        """Read a shard; ShapeError if it is none."""
        return cls(
            shard=_shard(entry), inputs=entry.text("inputs_sha256"), measures=Measures.of(entry.entry("measures"))
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished run consists of.

    Attributes:
        request: what was asked for.
        shards: the pieces it was computed in.
        parts: every file of its tables.
        provenance: how it was made; None where nobody wrote that down.
    """

    request: Request
    shards: tuple[CommittedShard, ...]
    parts: tuple[Part, ...]
    provenance: Provenance | None = None

    @property
    def plan(self) -> Plan:
        """The plan it was made by."""
        return Plan(request=self.request, shards=tuple(done.shard for done in self.shards))

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes of all files of its tables."""
        return sum(part.bytes for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """The manifest as a JSON object."""
        return {
            "format": FORMAT,
            "status": "complete",
            **self.request.as_json(),
            "shards": [done.as_json() for done in self.shards],
            "parts": [part.as_json() for part in self.parts],
            **({} if self.provenance is None else {"provenance": self.provenance.as_json()}),
        }

    @classmethod
    def of(cls, entry: Entry) -> Manifest:
        """Read a manifest.

        Raises:
            ShapeError: if it is none of a whole run, or holds a shard or a part twice.
        """
        _require_format(entry)
        if entry.text("status") != "complete":
            raise ShapeError("it is not that of a whole run")
        shards = tuple(CommittedShard.of(one) for one in entry.entries("shards"))
        parts = tuple(Part.of(one) for one in entry.entries("parts"))
        if not shards or not parts:
            raise ShapeError("it is not that of a whole run")
        _require_once([done.shard.name for done in shards], "shard")
        _require_once([part.path for part in parts], "part")
        origin = entry.maybe_entry("provenance")
        provenance = None if origin is None else Provenance.of(origin)
        return cls(request=Request.of(entry), shards=shards, parts=parts, provenance=provenance)


def _shard(entry: Entry) -> Shard:
    entry.text("name")
    entry.text("group")
    if not isinstance(entry.content.get("kind"), int):  # as it was before shards had kinds
        entry.maybe_text("kind")
    return Shard.from_json(entry.content)


def _require_format(entry: Entry) -> None:
    if (found := entry.whole("format")) != FORMAT:
        raise ShapeError(f"its format is {found}, and this version reads {FORMAT}")


def _require_once(names: Sequence[str], kind: str) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise ShapeError(f"it lists the {kind} {name} {times} times")
