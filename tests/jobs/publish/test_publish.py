"""A published run: loaded by datasets, pandas, Polars and DuckDB, with what the run says and nothing of the machine."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import qkatlas as qk
from qkatlas.jobs.main import run as submit
from qkatlas.jobs.publish.card import PublishedTable
from qkatlas.jobs.publish.data_set import require_loadable
from qkatlas.outputs.schemas.field import field

SPEC = {"head": "L0H2", "states": "mlp", "top_k": 2, "odd": "a|b`c\n---"}


@pytest.fixture
def out(finish_run: Callable[..., Path], tmp_path: Path) -> Path:
    ids = pa.array(range(3), pa.int32())
    schema = pa.schema(
        [
            field("token_id", pa.int32(), "query token", unit="id"),
            field("key_ids", pa.list_(pa.int32(), 2), "keys | best first", unit="id"),
        ]
    )
    tables = {"tokens.parquet": pa.table({"token_id": ids, "text": ["a", "b", "c"], "bytes": [b"a", b"\xff", None]})}
    for layer, head in ((0, 2), (0, 11), (3, 2)):
        keys = pa.array([[layer, head]] * 3, pa.list_(pa.int32(), 2))
        tables[f"topk/L{layer}H{head}/part-0.parquet"] = pa.Table.from_arrays([ids, keys], schema=schema)
    finish_run(tmp_path / "runs", "full-vocab", tables, SPEC)
    return tmp_path / "runs"


@pytest.fixture
def published(out: Path, tmp_path: Path) -> Path:
    from qkatlas.jobs.publish.data_set import publish
    from qkatlas.outputs.runs import store

    folder = tmp_path / "a folder" / "set"
    publish(store.find(out, "latest"), folder, weights_licence="apache-2.0", say=lambda line: None)
    return folder


def test_files_have_layer_and_head_in_columns(published: Path, out: Path) -> None:
    frame = pd.read_parquet(published / "data" / "topk")
    assert list(frame.columns) == ["layer", "head", "token_id", "key_ids"]
    assert frame.dtypes[["layer", "head"]].astype(str).tolist() == ["int32", "int32"]
    assert frame.query("layer < 1 and head > 2")["key_ids"].map(list).tolist() == [[0, 11]] * 3
    assert pl.read_parquet(published / "data" / "topk").filter(pl.col("layer") == 3).height == 3
    found = duckdb.sql(f"SELECT head, count(*) FROM '{published}/data/topk/*.parquet' GROUP BY head ORDER BY head")
    assert found.fetchall() == [(2, 6), (11, 3)]
    run = qk.open("latest", out=out)
    assert pq.read_table(published / "data" / "topk").to_pylist() == run.table("topk").to_pylist()
    told = json.loads((published / "run.json").read_text())
    assert told["run_id"] == run.listed.run_id
    for file in published.glob("data/*/*.parquet"):
        said = pq.read_metadata(file).metadata
        assert said[b"qkatlas.run_id"].decode() == run.listed.run_id
        assert json.loads(said[b"qkatlas.settings"]) == SPEC
    assert pq.read_schema(file.parents[1] / "topk/00000-of-00003.parquet").field("layer").metadata == {
        b"description": b"layer, from 0",
        b"shape": b"scalar",
    }


def test_nothing_of_the_machine_is_in_it(published: Path, tmp_path: Path) -> None:
    for file in published.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert str(tmp_path).encode() not in content
            assert f'"{socket.gethostname()}"'.encode() not in content


def test_the_card_is_read_by_the_hub(published: Path) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(published / "README.md")
    assert card.data.license == "apache-2.0"
    configs = card.data.to_dict()["configs"]
    assert configs == [
        {"config_name": "topk", "data_files": "data/topk/*.parquet", "default": True},
        {"config_name": "tokens", "data_files": "data/tokens/*.parquet"},
    ]
    assert "| `key_ids` | fixed_size_list<element: int32>[2] | keys \\| best first (id) |" in card.text
    assert '| odd | `"a\\|b\'c\\n---"` |' in card.text


@pytest.mark.slow
def test_the_command_loads_it_back(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "set"
    assert submit(["publish", "latest", str(folder), "--out", str(out), "--license", "mit"]) == 0
    assert "loaded back: 2 tables" in capsys.readouterr().out
    loaded = datasets.load_dataset(str(folder), "topk", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["layer", "head", "token_id", "key_ids"]
    assert {"layer": 0, "head": 11, "token_id": 0, "key_ids": [0, 11]} in list(loaded)
    assert sorted({(row["layer"], row["head"]) for row in loaded}) == [(0, 2), (0, 11), (3, 2)]
    schema = pq.read_schema(next(folder.glob("data/topk/*.parquet")))
    tables = {name: PublishedTable(schema=schema, rows=8, files="") for name in ("topk", "tokens")}
    with pytest.raises(ValueError, match="table topk loads with 9 rows of layer, head, token_id, key_ids; expected 8"):
        require_loadable(folder, tables)
    with pytest.raises(ValueError, match="loads with the tables tokens, topk; expected topk"):
        require_loadable(folder, {"topk": tables["topk"]})


def test_bad_requests_leave_nothing(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    for folder, said in (
        (str(full), "is not an empty folder; name one that is new"),
        ("s3://bucket/x", "is no folder of this machine"),
    ):
        assert submit(["publish", "latest", folder, "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    (run,) = out.iterdir()
    part = next(run.glob("topk/**/*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert submit(["publish", "latest", str(tmp_path / "new"), "--out", str(out)]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "full"}
