"""Reading a finished run's tables as its manifest lists them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from outputs.part import Part
from outputs.run import Run

_HIVE = ds.partitioning(pa.schema([("layer", pa.int32()), ("head", pa.int32())]), flavor="hive")


def read_rows(run: Run, table: str, token_ids: Sequence[int]) -> pa.Table:
    """The rows of some tokens.

    Args:
        run: a finished run.
        table: `topk`, `self` or another partitioned table.
        token_ids: the query tokens.

    Returns:
        Their rows with the partition columns layer and head, in order of layer, head and token.

    Raises:
        ValueError: if the run is not finished or has no such table.
    """
    manifest = run.manifest()
    if manifest is None:
        raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
    files = [str(run.folder / part.path) for part in manifest["parts"] if part.path.startswith(f"{table}/")]
    if not files:
        raise ValueError(f"run {run.folder.name} has no table {table!r}")
    dataset = ds.dataset(files, partitioning=_HIVE, partition_base_dir=str(run.folder / table))
    rows = dataset.to_table(filter=pc.field("token_id").isin(list(token_ids)))
    return rows.sort_by([("layer", "ascending"), ("head", "ascending"), ("token_id", "ascending")])


def table_names(run: Run) -> set[str]:
    """Names of the tables of a finished run, such as `topk` and `heads`; none if it is not finished."""
    manifest = run.manifest()
    return set() if manifest is None else {_table_of(part) for part in manifest["parts"]}


def read_whole(run: Run, table: str) -> pa.Table:
    """A whole table of a finished run, once its files are found to be those that were committed.

    Args:
        run: the run.
        table: `topk`, `heads` or another of its tables.

    Returns:
        Its rows, one part after the other, with the partition columns layer and head where it has them.

    Raises:
        ValueError: if the run is not finished, has no such table, or a file of it is damaged.
    """
    manifest = run.manifest()
    if manifest is None:
        raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
    parts = [part for part in manifest["parts"] if _table_of(part) == table]
    # A table of one file may have rows of finer grain in a folder of its name.
    single = [part for part in parts if part.path == f"{table}.parquet"]
    parts = single or parts
    if not parts:
        raise ValueError(f"run {run.folder.name} has no table {table!r}")
    for part in parts:
        if fault := part.fault(run.folder):
            raise ValueError(f"run {run.folder.name} is damaged: {fault}; submit the same request again to repair it")
    if single:
        return read_parts(run, single)
    # Partition columns come from the folders below the table's own, whatever the folders above it are called.
    files = [str(run.folder / part.path) for part in parts]
    return ds.dataset(files, partitioning=_HIVE, partition_base_dir=str(run.folder / table)).to_table()


def _table_of(part: Part) -> str:
    return part.path.partition("/")[0].removesuffix(".parquet")


def read_parts(run: Run, parts: Sequence[Part]) -> pa.Table:
    """The rows of some parts, one part after the other, without partition columns.

    Args:
        run: the run, finished or not.
        parts: at least one of its parts.

    Returns:
        Their rows.
    """
    return pa.concat_tables([pq.read_table(run.folder / part.path, partitioning=None) for part in parts])


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
