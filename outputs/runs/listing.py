"""A run as a listing tells it from others: model, head, states, date and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from qkatlas.outputs.runs import store
from qkatlas.outputs.runs.provenance import Provenance
from qkatlas.outputs.runs.run import DamagedRunError, Run


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run, finished or not.

    Attributes:
        name: its folder's name.
        state: `complete`, `running`, `incomplete`, or `damaged`.
        job: what was asked for, such as `full-vocab`.
        model: what its user called the model; None while that is not written down.
        head: the head or heads that it is about, where its settings name any.
        states: how token states were taken, where its settings say so.
        date: when it was finished, or, while it is not, begun; ISO 8601, UTC.
        done: shards committed and sound.
        shards: shards in the plan.
        rows: rows in the committed parts of all tables.
        bytes: their bytes on disk.
        folder: where it lies.
        run_id: hash of all that changes its results; None where its files cannot be read.
        weights_sha256: hash of the model's weights; None likewise.
        settings: the settings that change results.
    """

    name: str
    state: str
    job: str
    model: str | None
    head: str | None
    states: str | None
    date: str | None
    done: int
    shards: int
    rows: int
    bytes: int
    folder: str
    run_id: str | None
    weights_sha256: str | None
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run) -> Listed:
        """Read what a run says of itself.

        Args:
            run: the run.

        Raises:
            ValueError: if the folder holds no run.
            OSError: if an object store does not answer.
        """
        status = store.status(run)
        try:
            manifest = run.manifest()
            record = manifest or run.plan()
            date = None if manifest else run.begun()
        except (DamagedRunError, OSError) as error:
            if isinstance(error, OSError) and error.errno is None:
                raise
            manifest = record = date = None
        origin = (manifest.provenance if manifest else None) or Provenance()
        settings = dict(record.request.spec) if record else {}
        begun = date.astimezone(UTC).isoformat(timespec="seconds") if date else None
        return cls(
            name=run.folder.name,
            state=status.state,
            job=status.job,
            model=origin.model,
            head=_text(settings.get("head") or settings.get("heads")),
            states=_text(settings.get("states")),
            date=origin.finished or begun,
            done=status.done,
            shards=status.shards,
            rows=status.rows,
            bytes=status.bytes,
            folder=str(run.folder),
            run_id=record.request.run_id if record else None,
            weights_sha256=record.request.weights_sha256 if record else None,
            settings=settings,
        )

    @property
    def line(self) -> str:
        """The run in one line: where it stands, and what tells it from others."""
        size = f"{self.rows} rows, {self.bytes / 1e6:.1f} MB"
        model = (self.model or "").rstrip("/").rpartition("/")[2]
        states = self.states and f"states {self.states}"
        facts = ", ".join(fact for fact in (model, self.head, states, self.date) if fact)
        return f"{self.name}: {self.state}, {self.done}/{self.shards} shards, {size}{facts and f', {facts}'}"

    def as_json(self) -> dict[str, Any]:
        """The run as a JSON object: the same facts by the same names, without its settings."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "settings"}


def _text(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        shown = ",".join(map(str, value[:3]))
        return f"{shown},... ({len(value)})" if len(value) > 3 else shown or None
    return None if value is None else str(value)
