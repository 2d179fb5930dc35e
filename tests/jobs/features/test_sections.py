"""What a report shows of features: a head's ten, with the tokens of its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qkatlas.jobs.main import run as command
from qkatlas.jobs.report.content import Report
from qkatlas.outputs.report.pack import unpack
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs")
    asked = ["--layers", "1", "--windows", "6", "--length", "24", "--in-process", "--quiet"]
    assert command(["features", "--model", "planted-tiny", "--out", str(out), *asked]) == 0
    (folder,) = out.iterdir()
    return Run(folder)


def test_a_report_holds_what_the_tables_say(run: Run) -> None:
    _, blocks = Report.of([run]).content()
    index = json.loads(unpack(blocks["index"]))
    assert [section["kind"] for section in index["sections"]] == ["features", "qk-heads"]
    section = index["sections"][0]
    texts = json.loads(unpack(blocks[section["texts"]["block"]]))
    tables: dict[str, pd.DataFrame] = {name: pd.read_parquet(str(run.folder / name)) for name in
                                       ("features", "contexts", "dfa", "attribution")}  # fmt: skip
    spelt = read_whole(run, "tokens").to_pandas().set_index("token_id")["text"]
    heads = read_whole(run, "heads").to_pandas().sort_values("head")
    assert len(section["heads"]) == len(heads) == 8
    assert section["table"]["columns"]["views_passed"]["values"] == heads["views_passed"].tolist()
    for row, shown in zip(heads.itertuples(), section["heads"], strict=True):
        assert [one["feature"] for one in shown] == row.top_features.tolist()
        for one in shown[:3]:
            of_z = "feature == @one['feature'] and reads == 'z'"
            (feature,) = tables["features"].query(of_z).to_dict("records")
            own = tables["attribution"].query("head == @row.head and feature == @one['feature']")
            assert one["share"] == own["share"].item()
            assert one["density"] == feature["density"]
            assert named(texts, one["promotes"]) == first(spelt, feature["logit_top_ids"])
            assert named(texts, one["suppresses"]) == first(spelt, feature["logit_bottom_ids"])
            contexts = tables["contexts"].query(of_z).sort_values("rank")
            assert named(texts, one["fires"]) == first(spelt, contexts["token_id"])
            assert named(texts, one["from"]) == first(spelt, contexts["source_token_id"].dropna())
            dfa = tables["dfa"][tables["dfa"].feature == one["feature"]]
            if one["relation"] is None:
                assert dfa.empty
                continue
            best = dfa.iloc[(dfa["share"] - dfa["chance"]).argmax()]
            assert one["relation"]["name"].startswith(best["source"].replace("_", " "))
            assert (one["relation"]["share"], one["relation"]["chance"]) == (best["share"], best["chance"])


def named(texts: list[str], places: list[int]) -> list[str]:
    return [texts[place] for place in places]


def first(spelt: Any, token_ids: Any) -> list[str]:
    return [spelt[token] for token in list(dict.fromkeys(int(token) for token in token_ids))[:6]]


def test_a_page_is_written(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert command(["report", str(run.folder), "--out", str(file)]) == 0
    assert "featuresSection" in file.read_text(encoding="utf-8")
