"""What a file says of its run: enough to tell it alone, and nothing that two submissions of a request differ in."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

import qkatlas
from qkatlas.outputs.places.local_folder import LocalFolder
from qkatlas.outputs.runs.identity import identify
from qkatlas.outputs.runs.part import encoded, write_part
from qkatlas.outputs.runs.stamp import stamp_of, stamped
from qkatlas.outputs.schemas.field import field

MODEL = {
    "architecture": {"family": "llama", "n_layers": 3, "n_heads": 8, "vocab_size": 1024}, "weights_sha256": "ab" * 32,
}  # fmt: skip
SPEC = {"head": "L1H5", "states": "context", "offset": "1", "scores": "attention", "windows": 40}
SCHEMA = pa.schema([field("token_id", pa.int32(), "query token", unit="id")])
TABLE = pa.Table.from_arrays([pa.array([1, 2], pa.int32())], schema=SCHEMA)


def said(path: str, spec: dict[str, object]) -> dict[str, str]:
    metadata = stamped(TABLE, stamp_of(identify("full-vocab", spec, MODEL)), path).schema.metadata
    return {key.decode().removeprefix("qkatlas."): value.decode() for key, value in metadata.items()}


def test_a_part_names_its_run_its_model_and_its_head() -> None:
    run = {
        "run_id": identify("full-vocab", SPEC, MODEL).run_id, "job": "full-vocab", "weights_sha256": "ab" * 32,
        "model": "llama, 3 layers of 8 heads, 1024 tokens", "version": qkatlas.__version__, "states": "context",
        "offset": "1", "scores": "attention",
    }  # fmt: skip
    assert said("topk/L1H5/part-00000.parquet", SPEC) == run | {"head": "L1H5", "circuit": "qk"}
    assert said("ov_self/L2H0/part-00000.parquet", SPEC) == run | {"head": "L2H0", "circuit": "ov"}
    assert said("tokens.parquet", SPEC) == run | {"head": "L1H5"}
    assert said("kin/L2/part-00000.parquet", {"states": "mlp"})["layer"] == "2"
    assert "head" not in said("kin/L2/part-00000.parquet", {"states": "mlp"})


def test_a_model_of_a_record_that_does_not_describe_it_is_unknown() -> None:
    told = stamp_of(identify("communities", {}, {"weights_sha256": "cd" * 32}))
    assert told["qkatlas.model"] == "unknown"


def test_every_reader_finds_it_in_the_footer_and_the_schema_stays_what_it_was(tmp_path: Path) -> None:
    folder, path = LocalFolder(str(tmp_path)), "topk/L1H5/part-00000.parquet"
    given = stamped(TABLE, stamp_of(identify("full-vocab", SPEC, MODEL)), path)
    file = tmp_path / write_part(folder, path, given).path
    found = {key: text for key, text in pq.read_metadata(file).metadata.items() if key.startswith(b"qkatlas.")}
    assert found == given.schema.metadata
    assert found[b"qkatlas.head"] == b"L1H5"
    assert pl.read_parquet_metadata(file)["qkatlas.head"] == "L1H5"
    asked = f"SELECT value FROM parquet_kv_metadata('{file}') WHERE key = 'qkatlas.head'"
    assert duckdb.sql(asked).fetchall() == [(b"L1H5",)]
    assert pq.read_schema(file).equals(SCHEMA, check_metadata=True)


def test_it_adds_little_to_a_file() -> None:
    longest = stamp_of(identify("head-scan", SPEC | {"exclude_hubs": 0.001}, MODEL))
    given = stamped(TABLE, longest, "ov_topk/L10H11/part-00000.parquet")
    assert len(encoded(TABLE)) < len(encoded(given)) < len(encoded(TABLE)) + 500
