"""Tables of a finished run come back with their partition columns, whatever these are."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from support.object_store import Server

from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run

ROWS = pa.table({"token_id": pa.array([0, 1], pa.int32())})


@pytest.mark.parametrize(
    ("values", "kind"), [(("none", "L0", "10"), pa.string()), (("0", "0003", "10"), pa.int32()), (("1", "2"), None)]
)
def test_partition_columns_are_those_that_pyarrow_finds(
    finish_run: Callable[..., Path], tmp_path: Path, values: tuple[str, ...], kind: pa.DataType | None
) -> None:
    folder = finish_run(tmp_path, "test", {f"rows/source={value}/part-0.parquet": ROWS for value in values})
    found = read_whole(Run(folder), "rows")
    expected = ds.dataset(folder / "rows", partitioning="hive").to_table()
    order = [("source", "ascending"), ("token_id", "ascending")]
    assert found.sort_by(order).to_pylist() == expected.sort_by(order).to_pylist()
    assert kind is None or found.schema.field("source").type == kind


@pytest.mark.slow
def test_the_remedy_for_a_damaged_table_is_one_that_works_there(
    finish_run: Callable[..., Path], store_server: Server, tmp_path: Path
) -> None:
    run = Run(finish_run(tmp_path, "test", {"heads.parquet": ROWS}))
    run.folder.write("heads.parquet", b"x" * (run.folder.size("heads.parquet") or 0))
    with pytest.raises(ValueError, match="has other content than was committed; submit the same request again"):
        read_whole(run, "heads")
    copy = Run(store_server.uri(f"atlas/{uuid.uuid4().hex}/{run.folder.name}"))
    for path in run.folder.files():
        copy.folder.write(path, run.folder.read(path))
    with pytest.raises(ValueError, match="has other content than was committed; remove the objects"):
        read_whole(copy, "heads")
