"""A run folder: its plan, its journal, its tables, and the manifest that is written last.

<out>/<job>-<run id>/
    manifest.json            only in a finished run; readers follow it
    tokens.parquet, topk/L1H5/part-*.parquet, ...
    _state/plan.json         the shards, fixed at the first submission
    _state/receipts.jsonl    the shards committed so far; objects _state/receipts/ in a store
    _state/failures.log      tracebacks of shards that could not be computed
    _state/driver.log        what each submission did and when; objects _state/driver/ in a store
    _state/quarantine/       damaged files, and files among the tables that the run did not write
    _state/lock              objects _state/drivers/ in a store
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, TypeVar

import pyarrow as pa

from qkatlas.outputs.places.folder import Folder, Log
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs.identity import Request
from qkatlas.outputs.runs.journal import Journal, Receipt
from qkatlas.outputs.runs.manifest import CommittedShard, Manifest, Plan
from qkatlas.outputs.runs.part import Part, faults, write_table
from qkatlas.outputs.runs.provenance import Provenance
from qkatlas.outputs.runs.record import Entry, ShapeError, parse, write
from qkatlas.outputs.runs.shard import Shard

_STATE = "_state"
_PLAN = f"{_STATE}/plan.json"
_MANIFEST = "manifest.json"
_JOURNAL = f"{_STATE}/receipts.jsonl"
_FAILURES = f"{_STATE}/failures.log"
_DRIVER = f"{_STATE}/driver.log"
_OWN = (_PLAN, _MANIFEST, _JOURNAL, _FAILURES, _DRIVER)
"""Files that are no tables."""

Record = TypeVar("Record")


class DamagedRunError(ValueError):
    """A file that a run keeps of itself cannot be read.

    Attributes:
        fault: which, and why, without the run and the remedy.
    """

    def __init__(self, folder: Folder, path: str, reason: str) -> None:
        self.fault = f"{path} is damaged ({reason})"
        super().__init__(f"{folder / path} is damaged ({reason}); submit the request again")


class Run:
    """One run on disk or in an object store. Opening it reads and writes nothing.

    Args:
        folder: where it lies.

    Attributes:
        folder: the same, opened.
        failure_log: where tracebacks of failed shards are kept.
    """

    def __init__(self, folder: str | os.PathLike[str] | Folder) -> None:
        self.folder = open_folder(folder)
        self.failure_log: Log = self.folder.log(_FAILURES)
        self._driver_log: Log = self.folder.log(_DRIVER)
        self._journal = Journal(self.folder.log(_JOURNAL))
        self._parsed: dict[str, tuple[bytes, Any]] = {}
        self._sound: dict[str, Receipt] = {}
        self._require_driving: Callable[[bool], None] = lambda ask: None

    def exists(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return any(self.folder.size(path) is not None for path in (_PLAN, _MANIFEST))

    def begun(self) -> datetime | None:
        """When its plan was made; None if it has none."""
        return self.folder.modified(_PLAN)

    def is_running(self) -> bool:
        """Whether a driver computes it now."""
        return self.folder.is_driven(_STATE)

    def manifest(self) -> Manifest | None:
        """The manifest, or None while the run is not finished.

        Raises:
            DamagedRunError: if the file is there but is no manifest of a whole run.
        """
        return self._read(_MANIFEST, Manifest.of)

    def plan(self) -> Plan | None:
        """What was asked for and its shards; None if the folder holds no plan.

        Raises:
            DamagedRunError: if the file is there but is no plan.
        """
        return self._read(_PLAN, Plan.of)

    def _read(self, path: str, of: Callable[[Entry], Record]) -> Record | None:
        """A record; parsed once for as long as its file stays the same."""
        try:
            content = self.folder.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise
        except OSError as error:
            if error.errno is None:  # a store that does not answer says nothing of the file
                raise
            raise self._damaged(path, f"it cannot be read: {error.strerror}") from error
        if path not in self._parsed or self._parsed[path][0] != content:
            try:
                self._parsed[path] = content, of(parse(content))
            except ShapeError as error:
                raise self._damaged(path, str(error)) from error
        record: Record = self._parsed[path][1]
        return record

    def _damaged(self, path: str, reason: str) -> DamagedRunError:
        return DamagedRunError(self.folder, path, reason)

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Be the one driver of this run while the block lasts.

        Raises:
            RunIsBusyError: if another driver is at it.
            OSError: if the folder cannot be made.
        """
        with self.folder.exclusive(_STATE) as self._require_driving:
            self._set_aside(self.folder.clear_leftovers(_OWN))
            try:
                yield
            except ValueError:
                # A request that came to nothing leaves nothing.
                if self.folder.size(_MANIFEST) is None and not self._journal.exists():
                    self.folder.discard(_STATE)
                raise

    def plan_or_load(
        self, request: Request, shards: Sequence[Shard], covers: Callable[[Sequence[Shard]], bool]
    ) -> list[Shard]:
        """Fix the plan at the first submission; afterwards the stored one holds.

        Args:
            request: what identifies the run.
            shards: the plan to store if there is none, or if the stored one is damaged.
            covers: whether shards are a whole plan of the job.

        Returns:
            The shards of the run.
        """
        try:
            stored = self.plan()
        except DamagedRunError:
            stored = None
        if stored is not None and stored.request.run_id == request.run_id and covers(stored.shards):
            return list(stored.shards)
        # Shards are named by what they cover, so that receipts of another plan never stand for these.
        self._set_aside([_PLAN])
        self.folder.write(_PLAN, write(Plan(request=request, shards=tuple(shards)).as_json()))
        return list(shards)

    def missing(self, shards: Sequence[Shard], *, hashed: bool = True) -> list[Shard]:
        """The shards that still have to be computed.

        A shard is there if it has a receipt, every part it may name is on disk with that size and hash, and it was
        computed from the same inputs as the newest shard of its group.

        Args:
            shards: the plan.
            hashed: whether the parts' content is read, too.

        Returns:
            The others, in the plan's order.
        """
        receipts = self.committed()
        groups = {shard.name: shard.group for shard in shards}
        newest = {groups[name]: receipt.inputs for name, receipt in receipts.items() if name in groups}
        fit = {
            name: receipt
            for name, receipt in receipts.items()
            if name in groups and receipt.inputs == newest[groups[name]]
        }
        # Each file is hashed once a driver; the commit looks at all of them once more.
        unseen = {name: receipt for name, receipt in fit.items() if self._sound.get(name) != receipt}
        bad = faults(self.folder, [part for receipt in unseen.values() for part in receipt.parts], hashed=hashed)
        self._sound = {
            name: receipt
            for name, receipt in fit.items()
            if name not in unseen or not any(part.path in bad for part in receipt.parts)
        }
        return [shard for shard in shards if shard.name not in self._sound]

    def record(self, receipt: Receipt) -> None:
        """Commit a shard whose parts were just written.

        Raises:
            OSError: if the receipt cannot be written, or another driver may have taken the run over.
        """
        self._require_driving(False)
        self._journal.append(receipt)
        self._sound.pop(receipt.shard, None)
        self._sound[receipt.shard] = receipt

    def note_failure(self, shard: str, trace: str) -> None:
        """Keep the traceback of a shard that could not be computed, as far as the disk allows.

        Raises:
            OSError: if another driver may have taken the run over, as when its store is gone for good.
        """
        self._require_driving(False)
        with suppress(OSError):  # a full disk is often the very failure; the caller lists the shard in any case
            self.failure_log.append(f"shard {shard}\n{trace.rstrip()}\n".encode())

    def note(self, lines: str) -> None:
        """Add to the log of what submissions did.

        Args:
            lines: without the last line's end.

        Raises:
            OSError: if it cannot be written, or another driver may have taken the run over.
        """
        self._require_driving(False)
        self._driver_log.append(lines.encode())

    def receipts(self) -> dict[str, Receipt]:
        """The receipts of the shards found sound or recorded by this driver, by the shard's name, oldest first."""
        return dict(self._sound)

    def parts_of(self, shards: Sequence[Shard], *, made_from: str | None = None) -> list[Part] | None:
        """The parts of some shards, shard by shard; None unless each of them has a receipt.

        Args:
            shards: the shards.
            made_from: what the receipts must say that they were computed from; None = whatever it was.
        """
        found = [self._sound.get(shard.name) for shard in shards]
        receipts = [one for one in found if one is not None and made_from in (None, one.inputs)]
        if len(receipts) < len(shards):
            return None
        return [part for receipt in receipts for part in receipt.parts]

    def committed(self) -> dict[str, Receipt]:
        """The newest receipt of every shard that was ever committed, whatever became of its files."""
        try:
            return self._journal.read()
        except OSError as error:
            if error.errno is None:  # a store that does not answer
                raise
            return {}

    def write_table(self, path: str, table: pa.Table) -> Part:
        """Write a table of the whole run, such as `tokens.parquet`.

        Raises:
            OSError: if it cannot be written, or another driver may have taken the run over.
        """
        self._require_driving(False)
        return write_table(self.folder, path, table)

    def commit(
        self,
        request: Request,
        shards: Sequence[Shard],
        tables: Sequence[Part],
        *,
        provenance: Provenance | None = None,
    ) -> None:
        """Finish the run: look at every part once more, set strange files aside, write the manifest last.

        Args:
            request: what identifies the run.
            shards: the plan, all of it recorded.
            tables: parts written by the driver itself.
            provenance: how it was made.

        Raises:
            OSError: if a part changed since it was recorded, the manifest cannot be written, or another driver may
                have taken the run over.
        """
        receipts = [self._sound[shard.name] for shard in shards]
        parts = [*tables, *(part for receipt in receipts for part in receipt.parts)]
        found = list(faults(self.folder, parts, hashed=not self.folder.sizes_suffice).values())
        if found:
            raise OSError(f"{len(found)} parts changed while the run was finished, first: {found[0]}; submit again")
        self._require_driving(True)
        self.folder.clear_leftovers()  # of workers that were lost on the way
        self._set_aside(self.strangers({part.path for part in parts}))
        manifest = Manifest(
            request=request,
            shards=tuple(
                CommittedShard(shard=shard, inputs=receipt.inputs, measures=receipt.measures)
                for shard, receipt in zip(shards, receipts, strict=True)
            ),
            parts=tuple(parts),
            provenance=provenance,
        )
        self._require_driving(True)
        self.folder.write(_MANIFEST, write(manifest.as_json()))

    def reopen(self) -> None:
        """Set aside the manifest of a run whose files are damaged, before they are computed again.

        Raises:
            OSError: if another driver may have taken the run over, and finished it.
        """
        self._require_driving(True)
        self._set_aside([_MANIFEST])

    def strangers(self, known: set[str]) -> list[str]:
        """Files among the tables that the run did not write; readers of a whole table would take them for data."""
        found = self.folder.files(known)
        return sorted(path for path in found if ("/" in path or path.endswith(".parquet")) and path not in known)

    def _set_aside(self, paths: Iterable[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                self.folder.move(path, f"{_STATE}/quarantine/{time.time_ns()}-{path.rpartition('/')[2]}")
