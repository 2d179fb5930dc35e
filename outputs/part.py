"""Parts: the Parquet files of a table, written whole or not at all, and known by their size and hash."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, kw_only=True)
class Part:
    """One committed file of a run, as its manifest lists it."""

    path: str
    """Path inside the run folder, with forward slashes."""
    rows: int
    bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """The part as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Part:
        """Read a part from the object that `as_json` made.

        Raises:
            KeyError, TypeError: if a field is missing or of another kind.
            ValueError: if the path leads out of the run folder.
        """
        part = cls(path=entry["path"], rows=entry["rows"], bytes=entry["bytes"], sha256=entry["sha256"])
        if not (isinstance(part.path, str) and isinstance(part.rows, int) and isinstance(part.bytes, int)):
            raise TypeError(f"{entry!r} does not describe a part")
        if part.path.startswith("/") or ".." in part.path.split("/"):
            raise ValueError(f"{part.path!r} leads out of the run folder")
        return part

    def fault(self, folder: Path) -> str | None:
        """What is wrong with the file on disk, or None if it is exactly the one that was committed."""
        file = folder / self.path
        try:
            size = file.stat().st_size
            if size != self.bytes:
                return f"{self.path} has {size} bytes instead of {self.bytes}"
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            return f"{self.path} is missing"
        except OSError as error:
            return f"{self.path} cannot be read: {error}"
        return None if digest == self.sha256 else f"{self.path} has other content than was committed"


def partition(table: str, layer: int, head: int, index: int) -> str:
    """Path of a head's part inside the run folder, in hive form: `topk/layer=1/head=5/part-00003.parquet`."""
    return f"{table}/layer={layer}/head={head}/part-{index:05d}.parquet"


def layer_partition(table: str, layer: int, index: int) -> str:
    """Path of a part that a layer's heads share: `kin/layer=1/part-00003.parquet`."""
    return f"{table}/layer={layer}/part-{index:05d}.parquet"


def write_part(folder: Path, path: str, table: pa.Table) -> Part:
    """Write a table as one Parquet file under its final name.

    The bytes depend on the table alone, so that a repeated write puts the same file in place of itself.

    Args:
        folder: run folder.
        path: path inside it.
        table: the rows.

    Returns:
        What was written.

    Raises:
        OSError: if the file cannot be written; nothing is left under its name or any other.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    content = buffer.getvalue()
    write_whole(folder / path, content)
    return Part(path=path, rows=table.num_rows, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_whole(file: Path, content: bytes) -> None:
    """Put a file in place at once: a temporary name in the same folder, fsync, rename.

    Args:
        file: final name; its folder is made.
        content: what it shall hold.

    Raises:
        OSError: if that failed; the temporary file is removed and an earlier file of that name stays.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
