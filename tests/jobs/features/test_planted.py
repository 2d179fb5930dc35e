"""Planted dictionaries: what is known of them is found, by the command as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qkatlas.jobs.inputs.dictionaries import dictionary_folder
from qkatlas.jobs.main import run as command
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.features.dictionary import open_dictionaries, read_configs
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.features import planned, plant_dictionaries

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs")
    assert command(["features", "--model", "planted-tiny", "--out", str(out), "--in-process", "--quiet"]) == 0
    (folder,) = out.iterdir()
    return Run(folder)


def truth(name: str) -> dict[str, Any]:
    folder = dictionary_folder(None, "planted-tiny", print)
    found: dict[str, Any] = json.loads((folder / name / "truth.json").read_text())
    return found


def frame(run: Run, table: str) -> pd.DataFrame:
    return pd.read_parquet(str(run.folder / table))


@pytest.mark.slow
def test_owners_are_found(run: Run) -> None:
    features = frame(run, "features").query("reads == 'z'")
    for layer in range(3):
        rows = features[features.layer == layer].set_index("feature").sort_index()
        owners = truth(f"blocks.{layer}.attn.hook_z")["owners"]
        assert len(owners) == len(rows)
        shares = np.stack(rows["head_shares"])
        for feature, own in enumerate(owners):
            expected = np.zeros(8)
            expected[own] = 1 if len(own) == 1 else (3 / 7, 4 / 7)  # norms 3 and 4
            np.testing.assert_allclose(shares[feature], expected, atol=1e-6)
            row = rows.loc[feature]
            assert row["head_top"] == own[-1]
            of_both = np.exp(-3 / 7 * np.log(3 / 7) - 4 / 7 * np.log(4 / 7))
            assert row["heads_effective"] == pytest.approx(1 if len(own) == 1 else of_both, abs=1e-6)
            if len(own) == 1:  # all of such a pre-activation comes from its head
                assert row["fve_top_head"] == own[0]
                np.testing.assert_allclose(row["head_fve"], expected, atol=1e-6)
        assert sum(len(own) == 2 for own in owners) == 7


@pytest.mark.slow
def test_the_heads_whose_features_are_alike_are_the_candidates(run: Run) -> None:
    heads = read_whole(run, "heads").to_pandas()
    named = heads[heads.monosemantic_candidate]
    expected = {truth(f"blocks.{layer}.attn.hook_z")["monosemantic"] for layer in range(3)}
    assert {f"L{row.layer}H{row.head}" for row in named.itertuples()} == expected
    assert named["logit_z"].min() > 10
    assert named["encoder_z"].min() > 10


@pytest.mark.slow
def test_the_convention_of_the_planted_is_folded(run: Run) -> None:
    rows = read_whole(run, "dictionaries").to_pandas()
    assert (rows[rows.reads == "z"]["convention"] == "folded").all()
    assert (rows[rows.reads == "z"]["fvu_folded"] < rows[rows.reads == "z"]["fvu_raw"]).all()
    assert not rows[rows.reads == "residual"]["conventions_differ"].any()  # the planted stream is centred already


@pytest.mark.slow
def test_the_target_head_takes_a_category_to_its_words(run: Run, planted_truth: dict[str, Any]) -> None:
    qk = frame(run, "qk").query("kind == 'feature_to_token'")
    target = int(planted_truth["target"].rpartition("H")[2])
    words = [
        {token for word in category["words"] for token in word["token_ids"]} for category in planted_truth["categories"]
    ]

    def precision(head: int) -> float:
        rows = qk[qk["head"] == head].sort_values("query_id")
        return float(np.mean([np.isin(ids, list(words[feature])).mean() for feature, ids in
                              enumerate(rows["key_ids"])]))  # fmt: skip

    found = {head: precision(head) for head in range(8)}
    assert found[target] > 0.9
    others = [value for head, value in found.items() if head != target and head != 2]  # L1H2 is semantic, too
    assert max(others) < 0.6


def test_a_plan_knows_the_planted_dictionaries() -> None:
    folder = dictionary_folder(None, "planted-tiny", print)
    assert planned(PlantedDesign(size="tiny")) == list(read_configs(folder).values())


def test_the_same_design_gives_the_same_dictionaries_and_leaves_the_checkpoint_alone() -> None:
    made = plant(PlantedDesign(size="tiny"))
    before = {name: tensor.tobytes() for name, tensor in made.tensors.items()}
    first, second = plant_dictionaries(made), plant_dictionaries(made)
    assert {name: tensor.tobytes() for name, tensor in made.tensors.items()} == before
    for one, other in zip(first, second, strict=True):
        assert one.truth == other.truth
        for name, tensor in one.tensors.items():
            np.testing.assert_array_equal(tensor, other.tensors[name])
    other_seed = plant_dictionaries(plant(PlantedDesign(size="tiny", seed=1)))
    assert not np.array_equal(other_seed[0].tensors["W_dec"], first[0].tensors["W_dec"])


def test_model_planted_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, features = tmp_path / "model", tmp_path / "sae"
    assert command(["model", "planted", str(model), "--size", "tiny", "--features", str(features)]) == 0
    assert f"submit features {features} --model {model}" in capsys.readouterr().out
    written = [one.identity() for one in open_dictionaries(features)]
    assert written == [one.identity() for one in open_dictionaries(dictionary_folder(None, "planted-tiny", print))]
    assert command(["model", "planted", str(tmp_path / "again"), "--size", "tiny", "--features", str(features)]) == 2
    assert f"{features} cannot be written" in capsys.readouterr().err
