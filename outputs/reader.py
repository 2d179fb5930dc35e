"""Reading a finished run's tables as its manifest lists them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from outputs.part import Part
from outputs.run import Run


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
    partitioning = ds.partitioning(pa.schema([("layer", pa.int32()), ("head", pa.int32())]), flavor="hive")
    dataset = ds.dataset(files, partitioning=partitioning, partition_base_dir=str(run.folder / table))
    rows = dataset.to_table(filter=pc.field("token_id").isin(list(token_ids)))
    return rows.sort_by([("layer", "ascending"), ("head", "ascending"), ("token_id", "ascending")])


def read_parts(run: Run, parts: Sequence[Part]) -> pa.Table:
    """The rows of some parts, one part after the other, without partition columns.

    Args:
        run: the run, finished or not.
        parts: at least one of its parts.

    Returns:
        Their rows.
    """
    return pa.concat_tables([pq.read_table(run.folder / part.path, partitioning=None) for part in parts])
