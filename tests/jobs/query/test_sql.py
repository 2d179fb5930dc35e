"""`submit sql`: a run's tables by their names, read only, from a disk and from an object store."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.small_runs import finish

from qkatlas.jobs.main import run as submit
from qkatlas.jobs.query import views
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs.run import Run

TEXTS = [" red", "red", "\\u00b7", "<s>"]


@pytest.fixture
def out(finish_run: Callable[..., Path], tmp_path: Path) -> Path:
    ids = pa.array(range(4), pa.int32())
    tokens = pa.table(
        {"token_id": ids, "text": TEXTS, "bytes": [b" red", b"red", b"\xc2\xb7", b"\xff"],
         "is_special": [False, False, False, True]}
    )  # fmt: skip
    tables: dict[str, pa.Table] = {
        "tokens.parquet": tokens,
        "heads.parquet": pa.table({"layer": pa.array([0, 0], pa.int32()), "head": pa.array([2, 11], pa.int32())}),
    }
    for head in (2, 11):
        keys = [[1, 0], [0, 3], [3, 2], [2, 1]]
        tables[f"topk/L0H{head}/part-0.parquet"] = pa.table(
            {
                "token_id": ids,
                "key_ids": pa.array(keys, pa.list_(pa.int32(), 2)),
                "scores": pa.array([[head + 0.5, float("nan")]] * 4, pa.list_(pa.float32(), 2)),
            }
        )
    finish_run(tmp_path / "runs", "full-vocab", tables, {"head": "L0H2"})
    return tmp_path / "runs"


@pytest.fixture
def ask(out: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def asked(query: str, *options: str) -> tuple[int, str, str]:
        code = submit(["sql", "latest", query, "--out", str(out), *options])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return asked


Asked = Callable[..., tuple[int, str, str]]


def test_tables_are_there_by_their_names_with_layer_and_head(ask: Asked) -> None:
    names = [row["name"] for row in json.loads(ask("SHOW TABLES", "--json")[1])]
    assert names == ["heads", "pairs", "tokens", "topk"]
    described = json.loads(ask("DESCRIBE topk", "--json")[1])
    assert [(row["column_name"], row["column_type"]) for row in described[:3]] == [
        ("layer", "INTEGER"), ("head", "INTEGER"), ("token_id", "INTEGER"),
    ]  # fmt: skip
    code, printed, _ = ask("SELECT head, count(*) AS n FROM topk WHERE layer < 1 GROUP BY head ORDER BY head", "--json")
    assert code == 0
    assert json.loads(printed) == [{"head": 2, "n": 4}, {"head": 11, "n": 4}]


def test_tokens_are_joined(ask: Asked) -> None:
    query = "SELECT place, token, key, score FROM pairs WHERE token_id = token_id('·red') AND head = 11 ORDER BY place"
    assert json.loads(ask(query, "--json")[1]) == [
        {"place": 1, "token": " red", "key": "red", "score": 11.5},
        {"place": 2, "token": " red", "key": " red", "score": None},  # JSON has no NaN
    ]
    names = (
        "SELECT token_id('red') a, token_id(' red') b, token_id('<s>') c, token_id('none') d, token(3) e, token(9) f"
    )
    (found,) = json.loads(ask(names, "--json")[1])
    assert found == {"a": 1, "b": 0, "c": None, "d": None, "e": "<s>", "f": None}
    joined = json.loads(ask("SELECT token FROM with_token('topk') WHERE head = 2 ORDER BY token_id", "--json")[1])
    assert [row["token"] for row in joined] == TEXTS


def test_the_forms_of_an_answer(ask: Asked) -> None:
    assert "│ 4 " in ask("SELECT count(*)::INTEGER AS n FROM tokens")[1].replace("    ", " ").replace("  ", " ")
    query = "SELECT token_id, key_ids, 'a\"b,c' AS text, bytes FROM topk JOIN tokens USING (token_id) WHERE head = 2"
    rows = list(csv.reader(io.StringIO(ask(f"{query} ORDER BY ALL LIMIT 1", "--csv")[1])))
    assert rows == [["token_id", "key_ids", "text", "bytes"], ["0", "[1, 0]", 'a"b,c', "20726564"]]
    assert json.loads(ask("SELECT 1 AS n WHERE false", "--json")[1]) == []
    assert ask("SELECT 1 AS n WHERE false", "--csv")[1] == "n\n"
    many = json.loads(ask("SELECT range FROM range(5000)", "--json")[1])
    assert [row["range"] for row in many] == list(range(5000))
    assert json.loads(ask("SELECT DATE '2026-01-02' d, 1.5::DECIMAL(4,2) n, {'a': 1} s", "--json")[1]) == [
        {"d": "2026-01-02", "n": 1.5, "s": {"a": 1}}
    ]
    harmful = ask("SELECT chr(27) || '[2J' AS t")[1]
    assert "\x1b" not in harmful


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("CREATE TABLE x AS SELECT 1", "takes one question that reads, such as SELECT; this is CREATE"),
        ("DELETE FROM tokens", "this is DELETE"),
        ("COPY tokens TO 'FILE'", "this is COPY"),
        ("ATTACH 'FILE'", "this is ATTACH"),
        ("INSTALL httpfs", "this is LOAD"),
        ("SET enable_external_access = true", "this is SET"),
        ("SELECT 1; SELECT 2", "this is SELECT, SELECT"),
        ("", "this is nothing"),
        ("SELECT * FROM read_csv('FILE')", "file system operations are disabled"),
        ("SELECT * FROM read_text('FILE')", "file system operations are disabled"),
        ("SELECT * FROM read_parquet('s3://bucket/x')", "disabled by configuration"),
        ("SELECT * FROM 'FILE'", "file system operations are disabled"),
        ("SELECT * FROM glob('*')", "disabled by configuration"),
        ("SELECT nothing FROM topk", 'column "nothing" not found'),
        ("SELECT error('stop')", "stop"),
        ("SELEC 1", "syntax error"),
    ],
)
def test_what_does_not_read_this_run_alone_is_refused(
    query: str, said: str, ask: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file.csv"
    file.write_text("secret\n1\n")
    for options in ((), ("--json",)):
        code, printed, error = ask(query.replace("FILE", str(file)), *options)
        assert code == 2
        assert said in error
        assert error.startswith("submit: error: ")
        assert error.count("\n") == 1
        assert "secret" not in printed
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "file.csv"}


def test_a_program_cannot_open_the_database_wider(out: Path) -> None:
    import duckdb

    connection = views.connect(Run(next(iter(out.iterdir()))))
    for setting in ("enable_external_access = true", "lock_configuration = false", "temp_directory = '/tmp'"):
        with pytest.raises(duckdb.Error):
            connection.execute(f"SET {setting}")
    local = pa.table({"x": [1]})
    with pytest.raises(duckdb.Error):
        connection.execute("SELECT * FROM local")
    assert len(local) == 1


def test_bad_requests(ask: Asked, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    assert ask("SELECT 1", "--json", "--csv")[0] == 2
    assert submit(["sql", "nothing", "SELECT 1", "--out", str(out)]) == 2
    (run,) = out.iterdir()
    (run / "manifest.json").rename(run / "gone")
    capsys.readouterr()
    assert submit(["sql", run.name, "SELECT 1", "--out", str(out)]) == 2
    assert "is not finished; submit the same request again to finish it" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    code, _, error = ask("SELECT 1")
    assert code == 2
    assert error == "submit: error: SQL needs duckdb, which is not installed; bring it with: pip install duckdb\n"


@pytest.mark.slow
def test_runs_in_an_object_store(store_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    place = store_server.uri("atlas/sql")
    finish(open_folder(place))
    query = "SELECT layer, head, token_id, score FROM topk ORDER BY token_id"
    assert submit(["sql", "latest", query, "--json", "--out", place]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == [{"layer": 0, "head": 0, "token_id": number, "score": 1.0} for number in range(3)]
