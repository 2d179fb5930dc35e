"""The store: the folder that holds all runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from outputs.run import DamagedRunError, Run


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


def find(out: Path, name: str) -> Run:
    """The run a user means.

    Args:
        out: folder of all runs.
        name: a run's folder, its name in `out`, or the beginning of its name or run id that fits one run only.

    Returns:
        The run.

    Raises:
        ValueError: if no run or more than one fits.
    """
    if not name:
        raise ValueError("the name of the run is empty; list the runs with: submit runs")
    direct = Run(Path(name).resolve())
    if direct.exists():
        return direct
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


def all_runs(out: Path) -> list[Run]:
    """Every run in a folder, by name; none if the folder does not exist.

    Raises:
        ValueError: if it is no folder.
    """
    if not out.exists():
        return []
    if not out.is_dir():
        raise ValueError(f"--out {out} is no folder; name the folder of the runs")
    return [run for folder in sorted(out.iterdir()) if folder.is_dir() and (run := Run(folder)).exists()]


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
        parts, count = manifest["parts"], len(manifest["shards"])
        sound = all(_size(run.folder / part.path) == part.bytes for part in parts)
        state, done = ("complete" if sound else "damaged"), count
    else:
        if plan is None:
            raise ValueError(f"{run.folder} holds no run")
        count = len(plan["shards"])
        done = count - len(run.missing(plan["shards"]))
        parts = [part for receipt in run.receipts().values() for part in receipt.parts]
        state = "running" if run.is_running() else "incomplete"
    request = manifest or plan
    assert request is not None, "either was read"
    return Status(
        state, request["job"], done, count, sum(part.rows for part in parts), sum(part.bytes for part in parts)
    )


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def faults(run: Run) -> list[str]:
    """Everything that differs on disk from what a finished run's manifest says; empty if it is sound.

    Raises:
        ValueError: if the run is not finished.
    """
    manifest = run.manifest()
    if manifest is None:
        raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
    found = [fault for part in manifest["parts"] if (fault := part.fault(run.folder))]
    if not run.folder.name.endswith(f"-{manifest['run_id']}"):
        found.append(f"manifest.json is that of run {manifest['run_id']}")
    known = {part.path for part in manifest["parts"]}
    return found + [
        f"{file.relative_to(run.folder).as_posix()} was not written by the run" for file in run.strangers(known)
    ]
