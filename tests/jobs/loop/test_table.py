"""Tables as jobs declare them: where their files lie, which shards write them, how the docs name them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from qkatlas.jobs.loop.table import Table
from qkatlas.outputs.runs.shard import Shard

SCHEMA = pa.schema([pa.field("value", pa.int64())])


def table(file: str = "", **more: object) -> Table:
    return Table(name="topk", rows="one row a token", schema=SCHEMA, file=file, **more)  # type: ignore[arg-type]


HEAD = "topk/L{layer}H{head}/part-{part:05d}.parquet"


@pytest.mark.parametrize(
    ("file", "whole", "path", "folder", "glob", "pattern"),
    [
        ("", True, "topk.parquet", "topk", "topk.parquet", "topk.parquet"),
        (HEAD, False, "topk/L2H1/part-00007.parquet", "topk", "topk/**/*.parquet",
         "topk/L1H0/part-*.parquet"),
        ("topk/part-{part:05d}.parquet", False, "topk/part-00007.parquet", "topk", "topk/*.parquet",
         "topk/part-*.parquet"),
        ("best/source={source}/part-{part:05d}.parquet", False, "best/source=3/part-00007.parquet", "best",
         "best/**/*.parquet", "best/source=S/part-*.parquet"),
    ],
)  # fmt: skip
def test_where_the_files_of_a_table_lie(
    file: str, whole: bool, path: str, folder: str, glob: str, pattern: str
) -> None:
    declared = table(file, shown={"head": "0"})
    shard = Shard("s", "g", {"layer": 2, "head": 1, "part": 7, "source": 3}, "rows")
    assert declared.whole is whole
    assert declared.path(None if whole else shard) == path
    assert (declared.folder, declared.glob, declared.pattern) == (folder, glob, pattern)


def test_a_part_is_the_first_where_shards_do_not_count_them() -> None:
    assert table(HEAD).path(Shard("s", "g", {"layer": 0, "head": 5})) == "topk/L0H5/part-00000.parquet"


def test_a_shard_without_a_bound_that_the_path_names_is_no_part_of_the_table() -> None:
    with pytest.raises(KeyError, match="layer"):
        table(HEAD).path(Shard("s", "g", {"head": 5}))


def test_fields_that_are_no_bounds_are_asked_for() -> None:
    named = table("topk/corpus={corpus}/part-{part:05d}.parquet", fields=lambda shard: {"corpus": "text", "part": 4})
    assert named.path(Shard("s", "g", {})) == "topk/corpus=text/part-00004.parquet"


def test_the_docs_write_layers_heads_and_parts_as_everywhere() -> None:
    assert table(HEAD).pattern == "topk/L1H5/part-*.parquet"


@pytest.mark.parametrize(
    ("kinds", "kind", "belongs"),
    [((), "rows", True), (("rows",), "rows", True), (("kin", "rows"), "rows", True), (("kin",), "rows", False)],
)
def test_shards_write_the_tables_of_their_kind(kinds: tuple[str, ...], kind: str, belongs: bool) -> None:
    assert table(HEAD, kinds=kinds).belongs(Shard("s", "g", {}, kind)) is belongs
