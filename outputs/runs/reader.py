"""Reading a finished run's tables as its manifest lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from qkatlas.outputs.places.folder import side_by_side
from qkatlas.outputs.runs.part import OTHER_ROWS, DamagedPartError, Part, read_part, table_of
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.soundness import remedy

_HIVE = ds.partitioning(pa.schema([("layer", pa.int32()), ("head", pa.int32())]), flavor="hive")
_FIRST = {"layer": 0, "head": 1}
_LARGEST = 2**31 - 1


def read_rows(run: Run, table: str, token_ids: Sequence[int]) -> pa.Table:
    """The rows of some tokens.

    Args:
        run: a finished run.
        table: `topk`, `self` or another partitioned table.
        token_ids: the query tokens.

    Returns:
        Their rows with columns layer and head, in order of layer, head and token.

    Raises:
        ValueError: if the run is not finished or has no such table.
    """
    manifest = run.manifest()
    if manifest is None:
        raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
    place = run.folder.path
    files = [f"{place}/{part.path}" for part in manifest.parts if part.path.startswith(f"{table}/")]
    if not files:
        raise ValueError(f"run {run.folder.name} has no table {table!r}")
    dataset = ds.dataset(
        files, filesystem=run.folder.filesystem, partitioning=_HIVE, partition_base_dir=f"{place}/{table}"
    )
    rows = dataset.to_table(filter=pc.field("token_id").isin(list(token_ids)))
    return rows.sort_by([("layer", "ascending"), ("head", "ascending"), ("token_id", "ascending")])


def table_names(run: Run) -> set[str]:
    """Names of the tables of a finished run, such as `topk` and `heads`; none if it is not finished."""
    manifest = run.manifest()
    return set() if manifest is None else {_table_of(part) for part in manifest.parts}


def open_table(run: Run, table: str) -> ds.Dataset:
    """A table of a finished run, of which nothing but the schema has been read: for engines that take what they need.

    Args:
        run: the run.
        table: `topk`, `heads` or another of its tables.

    Returns:
        Its files as the manifest lists them, with partition columns such as layer and head; these two come first.

    Raises:
        ValueError: if the run is not finished or has no such table.
    """
    parts, place = _parts_of(run, table), run.folder.path
    found = ds.dataset(
        [f"{place}/{part.path}" for part in parts],
        filesystem=run.folder.filesystem,
        partitioning=ds.HivePartitioning.discover(),
        partition_base_dir=f"{place}/{table}",
    )
    fields = sorted(found.schema, key=lambda field: _FIRST.get(field.name, len(_FIRST)))
    return found.replace_schema(pa.schema(fields, metadata=found.schema.metadata))


def read_whole(run: Run, table: str) -> pa.Table:
    """A whole table of a finished run, once its files are found to be those that were committed.

    Args:
        run: the run.
        table: `topk`, `heads` or another of its tables.

    Returns:
        Its rows, one part after the other, with its partition columns in front: int32 where all values are numbers,
        such as the layer and head of older runs, else string.

    Raises:
        ValueError: if the run is not finished, has no such table, or a file of it is damaged.
    """
    parts = _parts_of(run, table)
    contents = side_by_side(run.folder, lambda part: _content(run, part), parts)
    tables = [_rows(run, part, content) for part, content in zip(parts, contents, strict=True)]
    for number, keys in enumerate(partition_keys(parts)):
        tables[number] = with_keys(tables[number], keys)
    return pa.concat_tables(tables)


def read_checked(run: Run, part: Part) -> pa.Table:
    """The rows of one part of a finished run, once its file is found to be the one that was committed.

    Args:
        run: the run.
        part: as its manifest lists it.

    Raises:
        ValueError: if the file is damaged.
    """
    return _rows(run, part, _content(run, part))


def partition_keys(parts: Sequence[Part]) -> list[dict[str, pa.Scalar]]:
    """What folders `key=value` of each of a table's parts say of all its rows.

    Args:
        parts: all parts of the table.

    Returns:
        For each part its keys: int32 where all values of a key are numbers, else string.
    """
    # They come from the folders below the table's own, whatever the folders above it are called.
    found = [dict(name.split("=", 1) for name in part.path.split("/")[1:-1] if "=" in name) for part in parts]
    numeric = {key: all(keys[key].isdecimal() and int(keys[key]) <= _LARGEST for keys in found) for key in found[0]}
    return [
        {key: pa.scalar(int(value), pa.int32()) if numeric[key] else pa.scalar(value) for key, value in keys.items()}
        for keys in found
    ]


def with_keys(table: pa.Table, keys: Mapping[str, pa.Scalar]) -> pa.Table:
    """Rows with a column for each key that holds for all of them, the first ones.

    Args:
        table: the rows.
        keys: as `partition_keys` gives them.
    """
    for number, (key, value) in enumerate(keys.items()):
        table = table.add_column(number, key, pa.repeat(value, len(table)))
    return table


def parts_by_table(run: Run) -> dict[str, list[Part]]:
    """The parts of each table of a finished run, tables by name; none if it is not finished."""
    return {name: _parts_of(run, name) for name in sorted(table_names(run))}


def _parts_of(run: Run, table: str) -> list[Part]:
    manifest = run.manifest()
    if manifest is None:
        raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
    parts = [part for part in manifest.parts if _table_of(part) == table]
    # A table of one file may have rows of finer grain in a folder of its name.
    parts = [part for part in parts if part.path == f"{table}.parquet"] or parts
    if not parts:
        known = ", ".join(sorted(table_names(run)))
        raise ValueError(f"run {run.folder.name} has no table {table!r}; it has {known}")
    return parts


def _content(run: Run, part: Part) -> bytes:
    """A part's bytes, found to be those that were committed."""
    try:
        return read_part(run.folder, part)
    except DamagedPartError as error:
        fault = str(error)
        raise ValueError(f"run {run.folder.name} is damaged: {fault}; {remedy(run, [fault])}") from error


def _rows(run: Run, part: Part, content: bytes) -> pa.Table:
    """The rows of a part, as many as are listed."""
    table = table_of(content)
    if len(table) != part.rows:
        fault = f"{part.path} {OTHER_ROWS} than are listed: {len(table)} for {part.rows}"
        raise ValueError(f"run {run.folder.name} is damaged: {fault}; {remedy(run, [fault])}")
    return table


def _table_of(part: Part) -> str:
    return part.path.partition("/")[0].removesuffix(".parquet")


def read_parts(run: Run, parts: Sequence[Part], table: str | None = None) -> pa.Table:
    """The rows of some parts, one part after the other, without partition columns.

    Args:
        run: the run, finished or not.
        parts: of the run; at least one of them is read.
        table: the table whose parts are read; None = all are, and are of one.

    Returns:
        Their rows.
    """
    read = [part for part in parts if table in (None, _table_of(part))]
    contents = side_by_side(run.folder, lambda part: run.folder.read(part.path), read)
    return pa.concat_tables([table_of(content) for content in contents])


def list_matrix(table: pa.Table, column: str) -> np.ndarray:
    """A column of lists of one length as a matrix.

    Args:
        table: the table.
        column: its column of a fixed-size list type.

    Returns:
        One row a list.
    """
    lists = table[column].combine_chunks()
    # Not `.values`, which forgets the offset of a slice.
    values: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), lists.type.list_size)
