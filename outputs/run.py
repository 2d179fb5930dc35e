"""A run folder: its plan, its journal, its tables, and the manifest that is written last.

<out>/<job>-<run id>/
    manifest.json            only in a finished run; readers follow it
    tokens.parquet, topk/layer=L/head=N/part-*.parquet, ...
    _state/plan.json         the shards, fixed at the first submission
    _state/receipts.jsonl    the shards committed so far
    _state/failures.log      tracebacks of shards that could not be computed
    _state/quarantine/       damaged files, and files among the tables that the run did not write
    _state/lock
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from outputs import lock
from outputs.identity import run_id
from outputs.journal import Journal, Receipt
from outputs.part import Part, write_part, write_whole
from outputs.shard import Shard

FORMAT = 1
"""Version of the manifest's own layout."""


class DamagedRunError(ValueError):
    """A file that a run keeps of itself cannot be read."""


class Run:
    """One run on disk. Opening it reads and writes nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state = folder / "_state"
        self._plan_file = self._state / "plan.json"
        self._journal = Journal(self._state / "receipts.jsonl")
        self._sound: dict[str, Receipt] = {}

    @property
    def manifest_file(self) -> Path:
        """Where the manifest of a finished run lies."""
        return self.folder / "manifest.json"

    @property
    def failure_log(self) -> Path:
        """Where tracebacks of failed shards are kept."""
        return self._state / "failures.log"

    def exists(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return self._plan_file.exists() or self.manifest_file.exists()

    def is_running(self) -> bool:
        """Whether a driver computes it now."""
        return lock.is_held(self._state / "lock")

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None while the run is not finished.

        Raises:
            DamagedRunError: if the file is there but is no manifest of a whole run.
        """
        manifest = self._read(self.manifest_file)
        if manifest is not None:
            try:
                manifest["parts"] = [Part.from_json(part) for part in manifest["parts"]]
                shards = [Shard.from_json(shard) for shard in manifest["shards"]]
                if manifest["run_id"] != run_id(manifest) or not manifest["parts"] or not shards:
                    raise ValueError("it is not that of a whole run")
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedRunError(
                    f"{self.manifest_file} is damaged ({error!r}); submit the request again"
                ) from error
        return manifest

    def plan(self) -> dict[str, Any] | None:
        """What was asked for: job, run id, request, model and shards; None if the folder holds no plan.

        Raises:
            DamagedRunError: if the file is there but is no plan.
        """
        plan = self._read(self._plan_file)
        if plan is not None:
            try:
                plan["shards"] = [Shard.from_json(shard) for shard in plan["shards"]]
                if plan["run_id"] != run_id(plan):
                    raise ValueError("its run id does not follow from its request")
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedRunError(f"{self._plan_file} is damaged ({error!r}); submit the request again") from error
        return plan

    def _read(self, file: Path) -> dict[str, Any] | None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, IsADirectoryError) as error:
            raise DamagedRunError(f"{file} is damaged ({error}); submit the request again") from error
        if not isinstance(content, dict):
            raise DamagedRunError(f"{file} is damaged (it is no JSON object); submit the request again")
        return content

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Be the one driver of this run while the block lasts.

        Raises:
            RunIsBusyError: if another driver is at it.
            OSError: if the folder cannot be made.
        """
        absent = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        try:
            self._state.mkdir(parents=True, exist_ok=True)
            with lock.exclusive(self._state / "lock"):
                # Only a driver that was killed leaves these; its workers' renames can no longer matter.
                for leftover in self.folder.rglob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
                # A folder where a part belongs would stop every attempt to write it.
                inside = (path for path in self.folder.rglob("*.parquet") if not path.is_relative_to(self._state))
                self._set_aside([path for path in inside if path.is_dir()])
                try:
                    yield
                except ValueError:
                    if not self.manifest_file.exists() and not self._journal.exists():
                        shutil.rmtree(self._state, ignore_errors=True)
                    raise
        finally:
            # A request that came to nothing leaves nothing: only folders made here, and only empty ones, go.
            for folder in absent:
                with suppress(OSError):
                    folder.rmdir()

    def plan_or_load(
        self, request: Mapping[str, Any], shards: Sequence[Shard], covers: Callable[[Sequence[Shard]], bool]
    ) -> list[Shard]:
        """Fix the plan at the first submission; afterwards the stored one holds.

        Args:
            request: what identifies the run, with its `run_id`.
            shards: the plan to store if there is none, or if the stored one is damaged.
            covers: whether shards are a whole plan of the job.

        Returns:
            The shards of the run.
        """
        try:
            stored = self.plan()
        except DamagedRunError:
            stored = None
        if stored is not None and stored["run_id"] == request["run_id"] and covers(stored["shards"]):
            return list(stored["shards"])
        # Shards are named by what they cover, so that receipts of another plan never stand for these.
        self._set_aside([self._plan_file])
        plan = {"format": FORMAT, **request, "shards": [shard.as_json() for shard in shards]}
        write_whole(self._plan_file, _json_bytes(plan))
        return list(shards)

    def missing(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards that still have to be computed.

        A shard is there if it has a receipt, every part it may name is on disk with that size and hash, and it was
        computed from the same inputs as the newest shard of its group.

        Args:
            shards: the plan.

        Returns:
            The others, in the plan's order.
        """
        receipts = self._journal.read()
        groups = {shard.name: shard.group for shard in shards}
        newest = {groups[name]: receipt.inputs for name, receipt in receipts.items() if name in groups}
        for shard in shards:
            receipt = receipts.get(shard.name)
            if receipt is None or receipt.inputs != newest[shard.group]:
                self._sound.pop(shard.name, None)
            elif self._sound.get(shard.name) != receipt:
                # Each file is hashed once a driver; the commit hashes all of them once more.
                if any(part.fault(self.folder) for part in receipt.parts):
                    self._sound.pop(shard.name, None)
                else:
                    self._sound[shard.name] = receipt
        return [shard for shard in shards if shard.name not in self._sound]

    def record(self, receipt: Receipt) -> None:
        """Commit a shard whose parts were just written.

        Raises:
            OSError: if the receipt cannot be written.
        """
        self._journal.append(receipt)
        self._sound[receipt.shard] = receipt

    def note_failure(self, shard: str, trace: str) -> None:
        """Keep the traceback of a shard that could not be computed, as far as the disk allows."""
        try:
            with self.failure_log.open("a", encoding="utf-8") as stream:
                stream.write(f"shard {shard}\n{trace.rstrip()}\n\n")
        except OSError:
            pass  # a full disk is often the very failure; the caller lists the shard in any case

    def receipts(self) -> dict[str, Receipt]:
        """The receipts of the shards found sound or recorded by this driver, by the shard's name."""
        return dict(self._sound)

    def write_table(self, path: str, table: pa.Table) -> Part:
        """Write a table of the whole run, such as `tokens.parquet`.

        Raises:
            OSError: if it cannot be written.
        """
        return write_part(self.folder, path, table)

    def commit(self, request: Mapping[str, Any], shards: Sequence[Shard], tables: Sequence[Part], **more: Any) -> None:
        """Finish the run: check every part once more, set strange files aside, write the manifest last.

        Args:
            request: what identifies the run.
            shards: the plan, all of it recorded.
            tables: parts written by the driver itself.
            more: further entries, such as `provenance`.

        Raises:
            OSError: if a part changed since it was recorded, or the manifest cannot be written.
        """
        receipts = [self._sound[shard.name] for shard in shards]
        parts = [*tables, *(part for receipt in receipts for part in receipt.parts)]
        faults = [fault for part in parts if (fault := part.fault(self.folder))]
        if faults:
            raise OSError(f"{len(faults)} parts changed while the run was finished, first: {faults[0]}; submit again")
        self._set_aside(self.strangers({part.path for part in parts}))
        manifest = {
            "format": FORMAT,
            "status": "complete",
            **request,
            "shards": [
                {**shard.as_json(), "inputs_sha256": receipt.inputs, "measures": dict(receipt.measures)}
                for shard, receipt in zip(shards, receipts, strict=True)
            ],
            "parts": [part.as_json() for part in parts],
            **more,
        }
        write_whole(self.manifest_file, _json_bytes(manifest))

    def reopen(self) -> None:
        """Set aside the manifest of a run whose files are damaged, before they are computed again."""
        self._set_aside([self.manifest_file])

    def strangers(self, known: set[str]) -> list[Path]:
        """Files among the tables that the run did not write; readers of a whole table would take them for data."""
        return sorted(
            file
            for file in self.folder.rglob("*")
            if file.is_file()
            and not any(name.startswith((".", "_")) for name in file.relative_to(self.folder).parts)
            and (file.parent != self.folder or file.suffix == ".parquet")
            and file.relative_to(self.folder).as_posix() not in known
        )

    def _set_aside(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if path.exists():
                target = self._state / "quarantine" / f"{time.time_ns()}-{path.name}"
                target.parent.mkdir(exist_ok=True)
                path.rename(target)


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
