"""The store: the folder that holds all runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qkatlas.outputs.places.folder import Folder, side_by_side
from qkatlas.outputs.places.local_folder import LocalFolder
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs.part import OTHER_CONTENT
from qkatlas.outputs.runs.part import faults as part_faults
from qkatlas.outputs.runs.run import DamagedRunError, Run


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
        name: a run's folder or URI, its name in `out`, or the beginning of its name or run id that fits one run only.

    Returns:
        The run.

    Raises:
        ValueError: if no run or more than one fits.
    """
    if not name:
        raise ValueError("the name of the run is empty; list the runs with: submit runs")
    place = open_folder(name)
    if isinstance(place, LocalFolder):
        place = LocalFolder(Path(place).resolve())
    direct = Run(place)
    with _answering(place):
        if direct.exists():
            return direct
    if not isinstance(place, LocalFolder):
        raise ValueError(f"{name} holds no run; list the runs in {place.parent} with: submit runs --out URI")
    fits = [
        run
        for run in all_runs(out)
        if run.folder.name.startswith(name) or run.folder.name.rpartition("-")[2].startswith(name)
    ]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise ValueError(f"run {name!r} fits {len(fits)} runs in {out}; name one, such as {fits[0].folder.name}")
    raise ValueError(f"run {name!r} is not in {out}; list what is there with: submit runs --out {out}")


def all_runs(out: Folder | Path) -> list[Run]:
    """Every run in a folder, by name; none if the folder does not exist.

    Raises:
        ValueError: if it is no folder, or an object store does not answer.
    """
    place = open_folder(out)
    try:
        with _answering(place):
            runs = [Run(folder) for folder in place.folders()]
            there = side_by_side(place, Run.exists, runs)
            return [run for run, exists in zip(runs, there, strict=True) if exists]
    except NotADirectoryError as error:
        raise ValueError(f"--out {out} is no folder; name the folder of the runs") from error


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
    """
    try:
        manifest, plan = run.manifest(), run.plan()
    except DamagedRunError:
        return Status("damaged", run.folder.name.rpartition("-")[0], 0, 0, 0, 0)
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


def faults(run: Run) -> list[str]:
    """Everything that differs on disk from what a finished run's manifest says; empty if it is sound.

    Raises:
        ValueError: if the run is not finished.
    """
    manifest = run.manifest()
    if manifest is None:
        raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
    found = list(part_faults(run.folder, manifest.parts).values())
    if not run.folder.name.endswith(f"-{manifest.request.run_id}"):
        found.append(f"manifest.json is that of run {manifest.request.run_id}")
    known = {part.path for part in manifest.parts}
    return found + [f"{path} was not written by the run" for path in run.strangers(known)]


def remedy(run: Run, found: list[str]) -> str:
    """What to do about faults.

    A request that is submitted again reads every file on a disk, but tells objects that appear whole by their size.

    Args:
        run: the run.
        found: its `faults`.
    """
    if run.folder.sizes_suffice and any(fault.endswith(OTHER_CONTENT) for fault in found):
        return "remove the objects with other content, then submit the same request again to compute them anew"
    return "submit the same request again to repair it"
