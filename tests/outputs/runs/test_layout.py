"""Where the parts of a head lie, and the columns that say the same inside them."""

from __future__ import annotations

from pathlib import Path

import pandas
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkatlas.outputs.places.local_folder import LocalFolder
from qkatlas.outputs.runs.layout import OF_HEAD, OF_LAYER, columns_at, is_older, older, place_of, placed
from qkatlas.outputs.runs.part import write_part

ROWS = pa.table({"token_id": pa.array([0, 1], pa.int32())}, metadata={"of": "a run"})
NUMBERS = st.integers(0, 10**6)


@given(NUMBERS, NUMBERS)
def test_a_path_says_its_head_in_both_layouts(layer: int, head: int) -> None:
    path = "topk/" + OF_HEAD.format(layer=layer, head=head, part=3)
    assert place_of(path) == place_of(older(path)) == {"layer": layer, "head": head}
    assert not is_older(path)
    assert is_older(older(path))


def test_names_of_both_layouts() -> None:
    assert "topk/" + OF_HEAD.format(layer=1, head=5, part=3) == "topk/L1H5/part-00003.parquet"
    assert older("topk/L1H5/part-00003.parquet") == "topk/layer=1/head=5/part-00003.parquet"
    assert older("kin/" + OF_LAYER.format(layer=2, part=0)) == "kin/layer=2/part-00000.parquet"


@pytest.mark.parametrize(
    "path", ["tokens.parquet", "histogram/part-00000.parquet", "losses/source=L1H5/part-0.parquet", "x/L1H5b/p.parquet"]
)
def test_other_parts_are_of_no_head(path: str) -> None:
    assert place_of(path) == {}
    assert older(path) == path
    assert not is_older(path)
    assert placed(ROWS, path).equals(ROWS)
    assert list(columns_at(path)) == []


def test_rows_say_their_place_in_front_and_keep_what_they_said() -> None:
    rows = placed(ROWS, "topk/L12H3/part-00000.parquet")
    assert rows.column_names == ["layer", "head", "token_id"]
    assert rows.select(["layer", "head"]).to_pydict() == {"layer": [12, 12], "head": [3, 3]}
    assert rows.schema.field("layer").type == rows.schema.field("head").type == pa.int32()
    assert rows.schema.metadata == ROWS.schema.metadata
    assert placed(rows, "topk/L0H0/part-00000.parquet").equals(rows)  # columns of a job's own stay
    assert placed(ROWS, "kin/L12/part-00000.parquet").column_names == ["layer", "token_id"]
    assert placed(ROWS, "topk/layer=12/head=3/part-00000.parquet").equals(ROWS)


def test_declared_columns_are_those_of_the_files() -> None:
    for file in (f"topk/{OF_HEAD}", f"kin/{OF_LAYER}"):
        written = placed(ROWS, file.format(layer=1, head=5, part=0))
        assert list(columns_at(file)) == list(written.schema)[:-1]


def test_readers_take_a_folder_of_heads_as_it_is(tmp_path: Path) -> None:
    for layer, head in ((1, 10), (1, 2)):
        path = "topk/" + OF_HEAD.format(layer=layer, head=head, part=0)
        write_part(LocalFolder(tmp_path), path, placed(ROWS, path))
    expected = [(1, 2), (1, 2), (1, 10), (1, 10)]
    frame = pandas.read_parquet(tmp_path / "topk")
    assert sorted(frame[["layer", "head"]].itertuples(index=False, name=None)) == expected
    assert len(frame.query("head < 10")) == 2
    for table in (
        pq.read_table(tmp_path / "topk"),
        ds.dataset(tmp_path / "topk", partitioning="hive").to_table(),
        pl.read_parquet(tmp_path / "topk").to_arrow(),
    ):
        assert sorted(zip(table["layer"].to_pylist(), table["head"].to_pylist(), strict=True)) == expected
