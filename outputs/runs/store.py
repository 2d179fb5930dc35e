"""The store: the folder that holds all runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from qkatlas.outputs.places.folder import Folder, side_by_side
from qkatlas.outputs.places.local_folder import LocalFolder
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs.part import faults as part_faults
from qkatlas.outputs.runs.provenance import Provenance
from qkatlas.outputs.runs.run import DamagedRunError, Run

LATEST = "latest"
"""What the newest run is called."""
_LISTED = 10
"""Runs that a message lists."""


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Attributes:
        state: `complete`, `running`, `incomplete`, or `damaged`.
        job: what was asked for.
        done: shards committed and sound.
        shards: shards in the plan.
        rows: rows in the committed parts of all tables.
        bytes: their bytes on disk.
    """

    state: str
    job: str
    done: int
    shards: int
    rows: int
    bytes: int


def find(out: Folder | Path, name: str) -> Run:
    """The run a user means.

    Args:
        out: folder of all runs.
        name: a run's folder or URI, its name in `out`, the beginning of its name or run id that fits
            one run only, `latest` for the newest run, or `full-vocab-latest` for the newest of those names.

    Returns:
        The run.

    Raises:
        ValueError: if no run or more than one fits.
    """
    if not name:
        raise ValueError("the name of the run is empty; list the runs with: submit runs")
    place = open_folder(name)
    if isinstance(place, LocalFolder):
        place = LocalFolder(os.path.realpath(place))
    direct = Run(place)
    with _answering(place):
        if direct.exists():
            return direct
    if not isinstance(place, LocalFolder):
        raise ValueError(f"{name} holds no run; list the runs in {place.parent} with: submit runs --out URI")
    runs = all_runs(out)
    beginning, _, word = name.rpartition("-")
    if word == LATEST:
        return _latest([run for run in runs if run.folder.name.startswith(beginning)], name, out)
    fits = [
        run for run in runs if run.folder.name.startswith(name) or run.folder.name.rpartition("-")[2].startswith(name)
    ]
    fits = [run for run in fits if run.folder.name == name] or fits
    if len(fits) == 1:
        return fits[0]
    if fits:
        listed = "; ".join(described(run) for run in fits[:_LISTED])
        more = f"; and {len(fits) - _LISTED} more" if len(fits) > _LISTED else ""
        raise ValueError(f"run {name!r} fits {len(fits)} runs in {out}; name one of: {listed}{more}")
    raise ValueError(f"run {name!r} is not in {out}; list what is there with: submit runs --out {out}")


def described(run: Run) -> str:
    """A run by its name with what tells it from others of its job: model, head, and when it was finished."""
    try:
        manifest, plan = run.manifest(), run.plan()
    except (DamagedRunError, OSError):
        return f"{run.folder.name} (damaged)"
    origin = (manifest.provenance if manifest else None) or Provenance()
    record = manifest or plan
    head = record.request.spec.get("head") if record else None
    model = (origin.model or "").rstrip("/").rpartition("/")[2]
    facts = (model, head, origin.finished or "not finished")
    return f"{run.folder.name} ({', '.join(str(fact) for fact in facts if fact)})"


def _latest(runs: Sequence[Run], name: str, out: Folder | Path) -> Run:
    """The run that was worked on last: when it was finished, or, while it is not, when its plan was made."""
    moments = [(moment, number) for number, run in enumerate(runs) if (moment := _moment(run)) is not None]
    if not moments:
        raise ValueError(f"run {name!r}: no run in {out} fits; list what is there with: submit runs --out {out}")
    return runs[max(moments)[1]]


def _moment(run: Run) -> datetime | None:
    try:
        manifest = run.manifest()
        if manifest is None:
            return run.begun()
        finished = manifest.provenance.finished if manifest.provenance else None
        return datetime.fromisoformat(finished).astimezone(UTC) if finished else None
    except (ValueError, OSError):  # damaged, or its date is none
        return None


def all_runs(out: Folder | Path) -> list[Run]:
    """Every run in a folder, by name; none if the folder does not exist.

    Raises:
        ValueError: if it is no folder, or an object store does not answer.
    """
    place = open_folder(out)
    try:
        with _answering(place):
            runs = [Run(folder) for folder in place.folders()]
            there = side_by_side(place, _is_run, runs)
            return [run for run, exists in zip(runs, there, strict=True) if exists]
    except NotADirectoryError as error:
        raise ValueError(f"{out} is no folder; name the folder of the runs") from error


def _is_run(run: Run) -> bool:
    """Whether a folder holds a run; one that this user may not look into is told as damaged, beside the others."""
    try:
        return run.exists()
    except OSError as error:
        if error.errno is None:
            raise
        return True


@contextmanager
def _answering(place: Folder) -> Iterator[None]:
    """Turn an object store that does not answer into a request that cannot be met, within seconds."""
    try:
        place.require_reachable()
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(unusable(place, error)) from error


def unusable(place: Folder, error: OSError) -> str:
    """What to say where a folder cannot be read or written at all.

    Args:
        place: the folder.
        error: what its disk or store said.
    """
    if isinstance(place, LocalFolder):
        return f"--out {place} cannot be written ({error.strerror or error}); choose another folder"
    reason = str(error).splitlines()[0].partition(" (Request ID")[0]
    return f"{place} cannot be used ({reason}); check the bucket, the endpoint and the credentials"


def status(run: Run) -> Status:
    """Where a run stands, from its manifest, or from its plan and journal while it is not finished.

    Raises:
        ValueError: if the folder holds no run.
        OSError: if an object store does not answer.
    """
    try:
        return _status(run)
    except DamagedRunError:
        pass
    except OSError as error:
        if error.errno is None:
            raise
    return Status("damaged", run.folder.name.rpartition("-")[0], 0, 0, 0, 0)


def _status(run: Run) -> Status:
    manifest, plan = run.manifest(), run.plan()
    if manifest is not None:
        request, parts, count = manifest.request, manifest.parts, len(manifest.shards)
        sound = not part_faults(run.folder, parts, hashed=False)
        state, done = ("complete" if sound else "damaged"), count
    else:
        if plan is None:
            raise ValueError(f"{run.folder} holds no run")
        request, count = plan.request, len(plan.shards)
        done = count - len(run.missing(plan.shards, hashed=not run.folder.sizes_suffice))
        parts = tuple(part for receipt in run.receipts().values() for part in receipt.parts)
        state = "running" if run.is_running() else "incomplete"
    return Status(state, request.job, done, count, sum(part.rows for part in parts), sum(part.bytes for part in parts))
