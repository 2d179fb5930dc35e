"""Parts: the Parquet files of a table, written whole or not at all, and known by their size and hash."""

from __future__ import annotations

import hashlib
import io
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qkatlas.outputs.places.folder import Folder, side_by_side
from qkatlas.outputs.runs.record import Entry, ShapeError

OTHER_CONTENT = "has other content than was committed"
OTHER_ROWS = "has other rows"


class DamagedPartError(OSError):
    """A part's file is not the one that was committed."""


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
    def of(cls, entry: Entry) -> Part:
        """Read a part.

        Raises:
            ShapeError: if it is none, or its path is none of a table in the run folder.
        """
        part = cls(
            path=entry.text("path"),
            rows=entry.whole("rows", least=0),
            bytes=entry.whole("bytes", least=0),
            sha256=entry.text("sha256"),
        )
        names = part.path.split("/")
        if any(not name.isprintable() or name.startswith((".", "_")) for name in names) or "" in names:
            raise ShapeError(f"{entry.at('path')} is {reprlib.repr(part.path)}, which is no file among the tables")
        if not part.path.endswith(".parquet"):
            raise ShapeError(f"{entry.at('path')} is {reprlib.repr(part.path)}, which is no Parquet file")
        if not re.fullmatch("[0-9a-f]{64}", part.sha256):
            raise ShapeError(f"{entry.at('sha256')} is {reprlib.repr(part.sha256)}, no SHA-256")
        return part


def faults(folder: Folder, parts: Sequence[Part], *, hashed: bool = True) -> dict[str, str]:
    """What is wrong with the files of some parts, by path; empty if they are exactly those that were committed.

    Args:
        folder: run folder.
        parts: the parts.
        hashed: whether their content is read, too: its hash, and the count of rows in it.

    Raises:
        OSError: if an object store does not answer, which says nothing of the parts.
    """
    sizes = folder.files(part.path for part in parts) if parts else {}

    def fault(part: Part) -> str | None:
        try:
            with _reading(part):
                if part.path not in sizes:
                    raise FileNotFoundError(part.path)
                _require_same(part, sizes[part.path], lambda: folder.sha256(part.path) if hashed else part.sha256)
                if hashed and (rows := footer(folder, part).num_rows) != part.rows:
                    raise DamagedPartError(f"{part.path} {OTHER_ROWS} than are listed: {rows} for {part.rows}")
        except DamagedPartError as error:
            return str(error)
        return None

    found = zip(parts, side_by_side(folder, fault, parts), strict=True)
    return {part.path: text for part, text in found if text is not None}


def footer(folder: Folder, part: Part) -> pq.FileMetaData:
    """What a part's file says of itself.

    Raises:
        DamagedPartError: if it is no Parquet file.
        OSError: if an object store does not answer.
    """
    try:
        with folder.filesystem.open_input_file(f"{folder.path}/{part.path}") as stream:
            return pq.read_metadata(stream)
    except pa.ArrowInvalid as error:
        raise DamagedPartError(f"{part.path} is no Parquet file") from error


def read_part(folder: Folder, part: Part) -> bytes:
    """A part's content, found to be what was committed.

    Args:
        folder: run folder.
        part: the part.

    Raises:
        DamagedPartError: if it is not.
        OSError: if an object store does not answer, which says nothing of the part.
    """
    with _reading(part):
        content = folder.read(part.path)
    _require_same(part, len(content), lambda: hashlib.sha256(content).hexdigest())
    return content


def table_of(content: bytes) -> pa.Table:
    """The rows that a part's file holds.

    Args:
        content: of the file.
    """
    # Arrow gets a copy of its own: its threads let go of what they have read a little later, and one that had to ask
    # Python for that while Python ends would take the whole process with it.
    stream = pa.BufferOutputStream()
    stream.write(content)
    return pq.read_table(pa.BufferReader(stream.getvalue()))


def columns_of(content: bytes, names: Sequence[str]) -> pa.Table:
    """Some columns of the rows that a part's file holds; of those not asked for nothing is decoded.

    Args:
        content: of the file.
        names: of the columns.
    """
    stream = pa.BufferOutputStream()  # a copy, as above
    stream.write(content)
    # Not `read_table`, which loads Arrow's datasets: half of what a command that shows a token takes.
    return pq.ParquetFile(pa.BufferReader(stream.getvalue())).read(columns=list(names))


@contextmanager
def _reading(part: Part) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedPartError(f"{part.path} is missing") from error
    except OSError as error:
        if error.errno is None:
            raise
        raise DamagedPartError(f"{part.path} cannot be read: {error}") from error


def _require_same(part: Part, size: int, digest: Callable[[], str]) -> None:
    if size != part.bytes:
        raise DamagedPartError(f"{part.path} has {size} bytes instead of {part.bytes}")
    if digest() != part.sha256:
        raise DamagedPartError(f"{part.path} {OTHER_CONTENT}")


def write_part(folder: Folder, path: str, table: pa.Table) -> Part:
    """Write a table as one Parquet file whose name ends with the beginning of its hash.

    The bytes depend on the table alone, so that a repeated write puts the same file in place of itself; two
    attempts at a shard with other results, as from two kinds of processor, never touch each other's files.

    Args:
        folder: run folder.
        path: path inside it, to which the hash is added: `topk/part-00003.parquet` becomes
            `topk/part-00003-1f2e3d4c5b6a.parquet`.
        table: the rows.

    Returns:
        What was written.

    Raises:
        OSError: if the file cannot be written; nothing is left under its name or any other.
    """
    content = encoded(table)
    digest = hashlib.sha256(content).hexdigest()
    return _write(folder, f"{path.removesuffix('.parquet')}-{digest[:12]}.parquet", table, content)


def write_table(folder: Folder, path: str, table: pa.Table) -> Part:
    """Write a table of the whole run under just this name, which only a driver does; see `write_part`."""
    return _write(folder, path, table, encoded(table))


def encoded(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file, the same for the same table.

    Args:
        table: the rows. Metadata of its schema as a whole go into the file's footer, where every reader finds them, and
            not into the schema that Arrow keeps beside it: tables of different files have one schema.
    """
    # A dictionary of scores, of which hardly two are equal, makes files a third larger and takes three times as long.
    leaves = map(_leaf, table.schema)
    repeating = [path for path, kind in leaves if not pa.types.is_floating(kind)]
    buffer = io.BytesIO()
    schema = table.schema.remove_metadata()
    with pq.ParquetWriter(buffer, schema, compression="zstd", use_dictionary=repeating) as writer:
        writer.write_table(table.replace_schema_metadata(None))
        if table.schema.metadata:
            writer.add_key_value_metadata(table.schema.metadata)
    return buffer.getvalue()


def _leaf(field: pa.Field) -> tuple[str, pa.DataType]:
    """A column's path in the file, and what it holds."""
    if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type):
        return f"{field.name}.list.element", field.type.value_type
    return field.name, field.type


def _write(folder: Folder, path: str, table: pa.Table, content: bytes) -> Part:
    folder.write(path, content)
    return Part(path=path, rows=table.num_rows, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
