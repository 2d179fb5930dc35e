"""Parts are written whole or not at all, and any change to them is found."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkatlas.outputs.places import local_folder
from qkatlas.outputs.places.local_folder import LocalFolder, write_whole
from qkatlas.outputs.runs.part import Part, faults, write_part, write_table
from qkatlas.outputs.runs.record import Entry

TABLE = pa.table({"token_id": pa.array(range(300), pa.int32()), "score": pa.array([0.5] * 300, pa.float32())})


def test_ids_have_a_dictionary_and_scores_have_none(tmp_path: Path) -> None:
    lists = pa.table(
        {
            "token_id": pa.array([0, 1], pa.int32()),
            "key_ids": pa.array([[1, 0], [0, 1]], pa.list_(pa.int32(), 2)),
            "scores": pa.array([[2.0, 1.0], [2.5, 0.5]], pa.list_(pa.float32(), 2)),
            "score": pa.array([1.0, 2.0], pa.float64()),
        }
    )
    part = write_part(LocalFolder(tmp_path), "t/part-00000.parquet", lists)
    group = pq.ParquetFile(tmp_path / part.path).metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    assert {column.path_in_schema.partition(".")[0]: column.has_dictionary_page for column in columns} == {
        "token_id": True, "key_ids": True, "scores": False, "score": False,
    }  # fmt: skip
    assert pq.read_table(tmp_path / part.path).equals(lists)


def test_a_part_is_what_its_record_says(tmp_path: Path) -> None:
    part = write_part(LocalFolder(tmp_path), "topk/L1H5/part-00003.parquet", TABLE)
    assert part.path == f"topk/L1H5/part-00003-{part.sha256[:12]}.parquet"
    file = tmp_path / part.path
    assert part.rows == 300
    assert part.bytes == file.stat().st_size
    assert part.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert pq.read_table(file, partitioning=None).equals(TABLE)
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"
    assert faults(LocalFolder(tmp_path), [part]) == {}
    assert Part.of(Entry(part.as_json())) == part
    assert os.listdir(file.parent) == [file.name]


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    assert write_part(folder, "a.parquet", TABLE) == write_part(folder, "a.parquet", TABLE)
    assert len(os.listdir(tmp_path)) == 1


def test_attempts_with_other_results_leave_each_other_alone(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    parts = [write_part(folder, "a.parquet", table) for table in (TABLE, TABLE.slice(1))]
    assert len({part.path for part in parts}) == 2
    assert faults(folder, parts) == {}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_change_of_a_file_is_a_fault(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("part")
    part = write_table(LocalFolder(folder), "a.parquet", TABLE)
    content = bytearray((folder / "a.parquet").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans(), label="truncate"):
        changed = bytes(content[:place])
    else:
        content[place] ^= data.draw(st.integers(1, 255))
        changed = bytes(content)
    (folder / "a.parquet").write_bytes(changed)
    assert "a.parquet" in faults(LocalFolder(folder), [part])


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    part = write_table(LocalFolder(tmp_path), "a.parquet", TABLE)
    (tmp_path / "a.parquet").unlink()
    assert faults(LocalFolder(tmp_path), [part]) == {"a.parquet": "a.parquet is missing"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_whole(tmp_path / "a", b"old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_folder.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"
