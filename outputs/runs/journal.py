"""The journal of a run: one line for each shard that was committed, appended by the one driver."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qkatlas.outputs.places.folder import Log
from qkatlas.outputs.runs.measures import Measures
from qkatlas.outputs.runs.part import Part
from qkatlas.outputs.runs.record import Entry, ShapeError, parse


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a worker hands back for a shard in place of its data.

    Attributes:
        shard: the shard's name.
        inputs: hash of the prepared input the shard was computed from.
        parts: the files it wrote.
        measures: numbers about the work itself (seconds, scores, peak memory); they identify nothing.
        summary: results of the whole shard that the run's own tables are put together from.
    """

    shard: str
    inputs: str
    parts: tuple[Part, ...]
    measures: Measures = field(default_factory=Measures)
    summary: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The receipt as a JSON object."""
        return {
            "shard": self.shard,
            "inputs": self.inputs,
            "parts": [part.as_json() for part in self.parts],
            "measures": self.measures.as_json(),
            "summary": dict(self.summary),
        }

    @classmethod
    def of(cls, entry: Entry) -> Receipt:
        """Read a receipt; ShapeError if it is none."""
        return cls(
            shard=entry.text("shard"),
            inputs=entry.text("inputs"),
            parts=tuple(Part.of(part) for part in entry.entries("parts")),
            measures=Measures.of(entry.entry("measures")),
            summary=entry.free("summary"),
        )


class Journal:
    """An append-only log of receipts.

    A driver that dies in the middle of a line leaves a torn one; it is skipped when read, so that a fault costs at most
    the receipt that was being written.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def exists(self) -> bool:
        """Whether anything was ever committed."""
        return self._log.exists()

    def append(self, receipt: Receipt) -> None:
        """Add a receipt and make it survive a power cut.

        Raises:
            OSError: if it cannot be written.
        """
        self._log.append(json.dumps(receipt.as_json(), separators=(",", ":")).encode())

    def read(self) -> dict[str, Receipt]:
        """The newest receipt of each shard, by its name, in the order of their writing."""
        receipts: dict[str, Receipt] = {}
        for line in self._log.lines():
            try:
                receipt = Receipt.of(parse(line))
            except ShapeError:
                continue  # a torn or empty line commits nothing
            receipts.pop(receipt.shard, None)
            receipts[receipt.shard] = receipt
        return receipts
