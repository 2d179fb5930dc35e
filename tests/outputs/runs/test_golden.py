"""Runs of an earlier version are read as that version read them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qkatlas.jobs.inputs.source import SourceRun
from qkatlas.jobs.main import run as submit
from qkatlas.jobs.report.content import described
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.journal import Journal
from qkatlas.outputs.runs.reader import read_rows, read_whole, table_names
from qkatlas.outputs.runs.record import write
from qkatlas.outputs.runs.run import Run

FULL_VOCAB, COMMUNITIES = "full-vocab-7c3458b224b6", "communities-10870f7263ef"
WEIGHTS = "034731102c81e68aa409b3ff97ea556445001f18ce20f36719e715cfcab39af1"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).parent / "golden", tmp_path / "runs"))


def contents(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "lock")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize(("name", "shards", "rows"), [(FULL_VOCAB, 2, 3072), (COMMUNITIES, 2, 6903)])
def test_the_store_finds_them_whole(out: Path, name: str, shards: int, rows: int) -> None:
    run = store.find(out, name)
    state = store.status(run)
    size = sum(file.stat().st_size for file in (out / name).rglob("*.parquet"))
    assert (state.state, state.done, state.shards, state.rows, state.bytes) == ("complete", shards, shards, rows, size)
    assert soundness.faults(run) == []


@pytest.mark.parametrize("name", [FULL_VOCAB, COMMUNITIES])
def test_what_is_read_of_them_would_be_written_as_it_is(out: Path, name: str) -> None:
    run = Run(out / name)
    assert write(run.manifest().as_json()) == (out / name / "manifest.json").read_bytes()
    assert write(run.plan().as_json()) == (out / name / "_state/plan.json").read_bytes()
    lines = (out / name / "_state/receipts.jsonl").read_text().splitlines()
    receipts = Journal(run.folder.log("_state/receipts.jsonl")).read()
    assert [receipt.as_json() for receipt in receipts.values()] == [json.loads(line) for line in lines]
    assert run.manifest().plan == run.plan()


def test_what_is_known_of_a_run_has_its_type(out: Path) -> None:
    manifest = Run(out / FULL_VOCAB).manifest()
    assert manifest.request.spec == {"head": "L1H5", "states": "mlp", "scores": "attention", "top_k": 8}
    assert (manifest.request.weights_sha256, manifest.request.vocab_size) == (WEIGHTS, 1024)
    assert [done.measures.scores for done in manifest.shards] == [2**19, 2**19]
    assert manifest.shards[0].measures.scoring_seconds == pytest.approx(2.2, abs=0.1)
    assert manifest.shards[0].measures.seconds is None
    assert (manifest.provenance.model, manifest.provenance.host) == ("planted-tiny", "golden")
    assert manifest.provenance.code.commit.startswith("436dfb0")
    done = Run(out / COMMUNITIES).manifest().shards[1].measures
    assert (done.tokens, done.edges, done.cpus, done.device) == (1024, 3829, 1, "cpu")


def test_every_reader_gives_the_rows_that_pandas_finds(out: Path) -> None:
    run = Run(out / FULL_VOCAB)
    assert table_names(run) == {"topk", "self", "tokens"}
    for table in ("topk", "self"):
        expected = pd.read_parquet(out / FULL_VOCAB / table)
        found = read_whole(run, table).to_pandas()
        for column in found.columns:
            assert np.array_equal(np.stack(found[column]), np.stack(expected[column])), column
        some = read_rows(run, table, [1023, 5]).to_pandas()
        rows = expected.set_index("token_id").loc[[5, 1023]]
        for column in rows.columns:
            assert np.array_equal(np.stack(some[column]), np.stack(rows[column])), column
    key_ids = SourceRun.open(out, FULL_VOCAB).key_ids()
    assert np.array_equal(key_ids, np.stack(pd.read_parquet(out / FULL_VOCAB / "topk")["key_ids"]))


def test_both_are_shown_in_a_report(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    assert submit(["report", "communities", "--runs", str(out), "--out", str(page)]) == 0
    assert f"{FULL_VOCAB}, {COMMUNITIES}" in capsys.readouterr().out
    shown = described(Run(out / FULL_VOCAB))
    assert [shown[name] for name in ("model", "vocab_size", "rows", "devices")] == ["planted-tiny", 1024, 3072, ["cpu"]]


def test_a_finished_run_returns_at_once(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(out)
    common = ["--out", str(out), "--in-process"]
    assert submit(["full-vocab", "--model", "planted-tiny", "--head", "L1H5", "--top-k", "8", *common]) == 0
    assert "nothing had to be computed" in capsys.readouterr().out
    assert submit(["communities", FULL_VOCAB, "--neighbours", "4", "--restarts", "2", *common]) == 0
    assert "nothing had to be computed" in capsys.readouterr().out
    assert contents(out) == before


def test_an_unfinished_one_is_finished_with_the_same_tables(out: Path, tmp_path: Path) -> None:
    earlier = Path(shutil.copytree(out / FULL_VOCAB, tmp_path / "earlier"))
    (out / FULL_VOCAB / "manifest.json").unlink()
    next((out / FULL_VOCAB / "topk").rglob("part-00001-*")).unlink()
    assert store.status(Run(out / FULL_VOCAB)).done == 1
    given = ["--model", "planted-tiny", "--head", "L1H5", "--top-k", "8", "--out", str(out), "--in-process", "--quiet"]
    assert submit(["full-vocab", *given]) == 0
    fresh = tmp_path / "fresh"
    assert submit(["full-vocab", *given, "--out", str(fresh)]) == 0
    assert soundness.faults(Run(out / FULL_VOCAB)) == []
    # another kind of processor rounds token states differently, so the golden run is met in its values
    for table, column in (("topk", "scores"), ("topk", "key_ids"), ("self", "self_score"), ("self", "self_rank")):
        found, whole, golden = (
            np.stack(pd.read_parquet(run / table).sort_values("token_id")[column])
            for run in (out / FULL_VOCAB, fresh / FULL_VOCAB, earlier)
        )
        assert np.array_equal(found, whole), column
        assert column == "key_ids" or np.allclose(found, golden, rtol=0, atol=1e-5), column
