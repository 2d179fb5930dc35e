"""An opened run: tables with layer and head, rows of a token, and what a notebook shows."""

from __future__ import annotations

import builtins
import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import qkatlas as qk

ROOT = Path(__file__).parents[3]


def scores(start: float) -> pa.Table:
    return pa.table(
        {
            "token_id": pa.array([0, 1, 2], pa.int32()),
            "key_ids": pa.array([[1, 2], [0, 2], [2, 0]], pa.list_(pa.int32(), 2)),
            "scores": pa.array([[start, 1], [start, 2], [start, 3]], pa.list_(pa.float32(), 2)),
        }
    )


@pytest.fixture
def run(finish_run: Callable[..., Path], tmp_path: Path) -> qk.OpenedRun:
    texts = [" red", "<b>", "café"]
    tokens = pa.table(
        {
            "token_id": pa.array([0, 1, 2], pa.int32()), "text": texts, "bytes": [text.encode() for text in texts],
            "is_special": [False, False, False],
        }
    )  # fmt: skip
    own = pa.table({"token_id": pa.array([0, 1, 2], pa.int32()), "self_rank": pa.array([3, 2, 1], pa.int32())})
    tables = {"tokens.parquet": tokens}
    for head in (3, 10):
        tables[f"topk/L1H{head}/part-0.parquet"] = scores(float(head))
        tables[f"self/L1H{head}/part-0.parquet"] = own
    return qk.open(finish_run(tmp_path / "runs", "full-vocab", tables, {"head": "L1H3", "states": "mlp"}))


def test_tables_have_layer_and_head_as_numbers(run: qk.OpenedRun) -> None:
    assert run.tables == ["self", "tokens", "topk"]
    table = run.table("topk")
    assert table.schema.names == ["layer", "head", "token_id", "key_ids", "scores"]
    assert table.schema.types[:2] == [pa.int32(), pa.int32()]
    assert run.pandas("self").query("layer < 2 and head > 3")["self_rank"].tolist() == [3, 2, 1]
    assert run.polars("topk").filter(pl.col("head") == 10).height == 3
    with pytest.raises(ValueError, match="has no table 'nope'; it has self, tokens, topk"):
        run.table("nope")
    with pytest.raises(ValueError, match=r"has no table 'heads'; a head scan has one: qkatlas\.head_scan"):
        run.heads()


def test_rows_of_a_token(run: qk.OpenedRun) -> None:
    rows = run.topk("·red", 1)
    assert list(rows) == [
        {"layer": 1, "head": head, "token_id": 0, "token": " red", "place": 1, "key_id": 1, "key": "<b>", "score": head}
        for head in (3, 10)
    ]
    assert run.topk(2)["key_id"] == [2, 0, 2, 0]
    assert run.self("#1")["self_rank"] == [2, 2]
    assert run.self(" red").arrow.schema.names == ["layer", "head", "token_id", "token", "self_rank"]
    assert pl.DataFrame(rows).shape == (2, 8)
    assert pd.DataFrame.from_arrow(rows).shape == (2, 8)
    for name, said in (
        ("nope", "token 'nope' is none of the 3 tokens"),
        ("red ", "there is '·red'"),
        (3, "token 3 is"),
    ):
        with pytest.raises(ValueError, match=said):
            run.token_id(name)


def test_wide_and_long_tables_are_cut_where_they_are_shown() -> None:
    rows = qk.Rows(pa.table({f"a long name of column {place}": range(30) for place in range(9)}))
    lines = repr(rows).splitlines()
    assert max(map(len, lines)) <= 120
    assert "column 0" in lines[0]
    assert lines[-1].strip() == "20 of 30 rows, 4 of 9 columns"
    assert len(rows) == len(list(rows)) == 30
    assert rows._repr_html_().count("<th>") == 9


def test_a_notebook_shows_tokens_as_data(run: qk.OpenedRun, capsys: pytest.CaptureFixture[str]) -> None:
    page = run.topk("·red")._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    shown = run._repr_html_()
    assert shown.count("<b>") == 1  # the run's name
    assert "L1H3" in shown
    assert "full-vocab" in qk.runs(Path(run.folder).parent)._repr_html_()
    run.show()
    printed = capsys.readouterr().out
    assert "complete, 1/1 shards, 15 rows" in printed
    assert "tables: self, tokens, topk" in printed
    assert repr(run).startswith("<full-vocab-")


def test_sql_asks_this_run(run: qk.OpenedRun) -> None:
    asked = run.sql("SELECT head, key FROM pairs WHERE token_id = token_id('·red') AND place = 2 ORDER BY head")
    assert asked.fetchall() == [(3, "café"), (10, "café")]
    with pytest.raises(ValueError, match="takes one question that reads"):
        run.sql("DROP TABLE topk")


@pytest.mark.parametrize(("package", "ask"), [
    ("pandas", lambda run: run.pandas("self")), ("polars", lambda run: run.polars("self")),
    ("duckdb", lambda run: run.sql("SELECT 1")),
])  # fmt: skip
def test_a_missing_package_is_named(
    package: str, ask: Callable[[qk.OpenedRun], Any], run: qk.OpenedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ImportError, match=rf"needs {package}, which is not installed; bring it with: pip install {package}$"
    ):
        ask(run)


def test_a_run_is_found_by_name_and_must_be_finished(run: qk.OpenedRun) -> None:
    out = Path(run.folder).parent
    assert qk.open("latest", out=out).name == run.name
    (Path(run.folder) / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is not finished; submit the same request again to finish it"):
        qk.open(run.folder)
    (one,) = qk.runs(out)
    assert (one.name, one.state, one.head) == (run.name, "incomplete", "L1H3")
    assert qk.runs(out / "none") == []


@pytest.mark.slow
def test_the_page_of_the_library_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.NORMALIZE_WHITESPACE
    done = doctest.testfile(str(ROOT / "docs/library.md"), module_relative=False, optionflags=flags, encoding="utf-8")
    assert done.failed == 0
    assert done.attempted > 9
    report = qk.open("latest").report(tmp_path / "report.html")
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(ValueError, match="is no report and is left alone"):
        qk.open("latest").report(tmp_path / "mine.html")


def test_the_text_of_rows_in_a_notebook_shows_nothing_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = qk.Rows(pa.table({"token": [" red"], "score": [1.5]}))
    expected = repr(rows)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert repr(rows) == expected
    assert "·red" in expected
    assert capsys.readouterr().out == ""
