"""`submit show`: every figure against the tables read whole, from any spelling of a token, and without torch."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from qkatlas.jobs.main import run

V, K = 1024, 16


@pytest.fixture(scope="module")
def out(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-vocab run of both circuits in three parts, its communities, and a scan of two heads."""
    folder = tmp_path_factory.mktemp("store")
    common = ["--model", str(planted_tiny), "--in-process", "--quiet", "--out", str(folder)]
    assert run(["full-vocab", *common, "--circuit", "both", "--top-k", str(K), "--shards", "3"]) == 0
    assert run(["communities", "full-vocab", "--in-process", "--quiet", "--out", str(folder), "--restarts", "2"]) == 0
    assert run(["head-scan", *common, "--circuit", "ov", "--heads", "L1H2,L2H0"]) == 0
    return folder


def shown(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> str:
    assert run(["show", *arguments, "--out", str(out)]) == 0
    return capsys.readouterr().out


def whole(out: Path, job: str, table: str) -> dict[str, Any]:
    (folder,) = (path for path in out.iterdir() if path.name.startswith(job))
    return ds.dataset(folder / table).to_table().sort_by("token_id").to_pydict()


@pytest.mark.slow
def test_json_says_what_the_tables_say(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = json.loads(shown(capsys, out, "full-vocab", "cat", "·red", "#7", "--json", "--keys", "5"))
    top, own = whole(out, "full-vocab", "topk"), whole(out, "full-vocab", "self")
    low, promoted, written = (whole(out, "full-vocab", name) for name in ("ov_bottomk", "ov_topk", "ov_self"))
    map_ = whole(out, "communities", "communities.parquet")
    texts = whole(out, "full-vocab", "tokens.parquet")["text"]
    assert printed["head"] == "L1H5"
    assert [one["token"] for one in printed["tokens"]] == [" cat", " red", texts[7]]
    for one in printed["tokens"]:
        token = one["token_id"]
        assert one["own"] == {
            "rank": own["self_rank"][token], "score": own["self_score"][token], "z": own["self_z"][token]
        }  # fmt: skip
        assert one["written"]["rank"] == written["self_rank"][token]
        for name, table in (("attends", top), ("promotes", promoted), ("suppresses", low)):
            assert [listed["token_id"] for listed in one[name]] == table["key_ids"][token][:5]
            assert [listed["score"] for listed in one[name]] == table["scores"][token][:5]
            assert [listed["token"] for listed in one[name]] == [texts[key] for key in table["key_ids"][token][:5]]
        queries = [(keys.index(token), query) for query, keys in enumerate(top["key_ids"]) if token in keys]
        assert one["attended_by_count"] == len(queries)
        places = sorted(place + 1 for place, _ in queries)[:5]
        assert [listed["place"] for listed in one["attended_by"]] == places
        for listed in one["attended_by"]:
            assert top["key_ids"][listed["token_id"]][listed["place"] - 1] == token
            assert top["scores"][listed["token_id"]][listed["place"] - 1] == listed["score"]
        assert one["kept"] == K
        of = np.array(map_["community"])
        assert one["community"]["number"] == of[token]
        assert one["community"]["size"] == (of == of[token]).sum()
        assert all(of[member] == of[token] and member != token for member in one["community"]["members"])


@pytest.mark.slow
def test_csv_has_the_same_lists(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_json = json.loads(shown(capsys, out, "full-vocab", "cat", "--json"))["tokens"][0]
    rows = list(csv.DictReader(io.StringIO(shown(capsys, out, "full-vocab", "cat", "--csv"))))
    for relation in ("attends", "attended_by", "promotes", "suppresses"):
        listed = [row for row in rows if row["relation"] == relation]
        assert [int(row["other_id"]) for row in listed] == [one["token_id"] for one in of_json[relation]]
        assert [float(row["score"]) for row in listed] == [one["score"] for one in of_json[relation]]
    (own,) = (row for row in rows if row["relation"] == "own_rank")
    assert int(own["place"]) == of_json["own"]["rank"]


@pytest.mark.slow
def test_a_scan_is_asked_for_one_of_its_heads(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, out, "head-scan", "cat", "red", "--head", "L2H0")
    assert printed.startswith("L2H0 in head-scan-")
    assert "promotes" in printed
    assert "attends to" not in printed
    for arguments, words in (
        (["head-scan", "cat"], ["2 heads", "--head", "L1H2, L2H0"]),
        (["head-scan", "cat", "--head", "L0H0"], ["no head L0H0", "L1H2, L2H0"]),
        (["head-scan", "cat", "--head", "first"], ["'first'"]),
        (["communities", "cat"], ["is of communities", "full-vocab"]),
        (["full-vocab", "catt"], ["'catt' is no single token", "near it are"]),
        (["full-vocab", "#1024"], ["#1024", "#1023"]),
        (["full-vocab", "cat", "--json", "--csv"], ["--json and --csv"]),
        (["full-vocab", "cat", "--keys", "0"], ["--keys 0"]),
        (["nothing", "cat"], ["'nothing'"]),
    ):
        assert run(["show", *arguments, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in words), error
        assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_nothing_heavy_is_loaded(out: Path) -> None:
    code = (
        "import sys; from qkatlas.jobs.main import run;"
        f"assert run(['show', 'full-vocab', 'cat', '--out', {str(out)!r}]) == 0;"
        "print(sorted({'torch', 'ray', 'transformers', 'numba', 'pandas', 'pyarrow.dataset'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_a_damaged_table_is_told(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.copytree(out, tmp_path / "copy")
    (folder,) = (path for path in (tmp_path / "copy").iterdir() if path.name.startswith("full-vocab"))
    next((folder / "topk").rglob("*.parquet")).unlink()
    assert run(["show", "full-vocab", "cat", "--out", str(tmp_path / "copy")]) == 2
    assert "is missing" in capsys.readouterr().err
