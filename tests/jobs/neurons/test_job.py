"""The neurons job: planted truths, lists against NumPy's argsort, the model's own pre-activations, resume, refusals."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import adjusted_rand_score
from support.checkpoints import reference
from support.families import make
from support.interruptions import Stopping, hashes

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import write_checkpoint
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as command
from qkatlas.jobs.neurons.job import NeuronsJob
from qkatlas.jobs.neurons.plan import plan_neurons
from qkatlas.jobs.neurons.spec import Neurons
from qkatlas.jobs.plan.shape import Shape
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.reader import list_matrix, read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import neurons as schemas
from qkatlas.pipeline.neurons.text import destinations
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.neurons import with_neurons

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"length": 48, "windows": 4, "latents": 2, "group": "L0H0,L0H2,L0H3"}
PLANTED: dict[str, Any] = {**SMALL, "length": 128, "latents": 4}


def measure(folder: Path, out: Path, executor: Any = None, **spec: Any) -> Result:
    job = NeuronsJob(Neurons(**{**SMALL, **spec}), Model.open("test", folder))
    return submit(job, out=out, executor=executor or InProcessExecutor(), gpus=0)


def rows_of(run: Run) -> pd.DataFrame:
    return read_whole(run, "neurons").to_pandas().set_index("neuron")


@pytest.fixture(scope="module")
def whole(worded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measure(worded_model, tmp_path_factory.mktemp("whole")).run


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known") / "model"
    assert command(["model", "planted", str(folder), "--size", "tiny", "--neurons"]) == 0
    return folder


@pytest.fixture(scope="module")
def truth(known: Path) -> dict[str, Any]:
    return json.loads((known / "truth.json").read_text())["neurons"]


@pytest.fixture(scope="module")
def classes(known: Path, truth: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two texts that have the planted counts, their words in a random order."""
    texts = {
        token: text for text, token in json.loads((known / "tokenizer.json").read_text())["model"]["vocab"].items()
    }
    files = []
    for side in (1, 2):
        words = [texts[one[0]].replace("\u0120", " ") for one in truth["log_ratio"]["counts"] for _ in range(one[side])]
        files.append(tmp_path_factory.mktemp("classes") / "text.txt")
        files[-1].write_text("".join(np.random.default_rng(side).permutation(words)))
    return files


@pytest.fixture(scope="module")
def planted(known: Path, classes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    both = tuple(file.read_text() for file in classes)
    return measure(known, tmp_path_factory.mktemp("planted"), **{**PLANTED, "classes": both}).run


def test_tables_are_what_their_schemas_say(whole: Run) -> None:
    assert soundness.faults(whole) == []
    neurons = read_whole(whole, "neurons")
    for found, declared in zip(neurons.schema, schemas.neurons(32), strict=True):
        assert (found.name, found.metadata, found.nullable) == (declared.name, declared.metadata, declared.nullable)
        assert found.type.equals(declared.type) or found.type.list_size == 32
    assert neurons["neuron"].to_pylist() == list(range(256))
    assert neurons["n_latents"].null_count == 254
    assert neurons["naive_bayes_r"].null_count == 256
    bags = read_whole(whole, "bags").to_pandas()
    assert bags["in_group"].tolist() == [True, False, True, True, False, False, False, False]
    assert len(pd.read_parquet(str(whole.folder / "latents"))) == read_whole(whole, "latents").num_rows


def test_lists_are_those_of_numpys_argsort(worded_model: Path, whole: Run) -> None:
    """Products of the run's own extended embeddings, all of them, in float64."""
    job = NeuronsJob(Neurons(**SMALL), Model.open("test", worded_model))
    reading = job._share(type("Context", (), {"threads": 1})).reading
    c_JV = reading.queries_JD.astype(float) @ reading.extended_VD.astype(float).T
    neurons, tokens = read_whole(whole, "neurons"), read_whole(whole, "neuron_tokens")
    for table, k in ((neurons, 32), (tokens, 256)):
        for end, sign in (("top", -1), ("bottom", 1)):
            order_JK = np.argsort(sign * c_JV, axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(list_matrix(table, f"{end}_ids"), order_JK)
            expected_JK = np.take_along_axis(c_JV, order_JK, 1)
            np.testing.assert_allclose(list_matrix(table, f"{end}_values"), expected_JK, rtol=1e-5)
    ordinary = np.arange(1023)  # the last is BOS
    np.testing.assert_allclose(rows_of(whole)["contribution_mean"], c_JV[:, ordinary].mean(1), atol=1e-9)
    np.testing.assert_allclose(rows_of(whole)["contribution_std"], c_JV[:, ordinary].std(1), rtol=1e-6)


def test_the_fit_is_that_against_the_models_own_pre_activations(worded_model: Path, whole: Run) -> None:
    job = NeuronsJob(Neurons(**SMALL), Model.open("test", worded_model))
    reading = job._share(type("Context", (), {"threads": 1})).reading
    model, heard = reference(worded_model), []
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda *given: heard.append(given[-1].detach()))
    with torch.no_grad():
        model(torch.from_numpy(job._tokens_BT[8:]))
    n_R = destinations(48)
    real_RJ = heard[0][:, n_R].flatten(0, 1).numpy()
    bias_J = reading.bias_J
    np.testing.assert_allclose(reading.held.real @ reading.read_JD.T + bias_J, real_RJ, rtol=0, atol=1e-10)
    said_RJ = reading.held.approximate @ reading.read_JD.T + bias_J
    rows = rows_of(whole)
    r = [np.corrcoef(real_RJ[:, j], said_RJ[:, j])[0, 1] for j in range(256)]
    np.testing.assert_allclose(rows["r_pre"], r, atol=1e-9)
    fvu = ((real_RJ - said_RJ) ** 2).sum(0) / ((real_RJ - real_RJ.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(rows["fvu_pre"], fvu, rtol=1e-7)
    np.testing.assert_allclose(rows["noise_sd"], (real_RJ - said_RJ).std(0), rtol=1e-7)
    weights = load_file(worded_model / "model.safetensors")["transformer.h.0.mlp.c_proj.weight"].astype(float)
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_array_equal(rows["opposite_id"], (unit @ unit.T).argmin(axis=1))
    np.testing.assert_allclose(rows["opposite_cosine"], (unit @ unit.T).min(axis=1), atol=1e-6)


def test_a_planted_bag_is_exact(tmp_path: Path) -> None:
    """Heads whose keys have no content of their own: denominators are one, and the bag is all that they write."""
    made = with_neurons(plant(PlantedDesign(size="tiny")), content=0.0)
    write_checkpoint(made, tmp_path / "model")
    rows = rows_of(measure(tmp_path / "model", tmp_path / "runs", **{**PLANTED, "latents": 0}).run)
    neuron = made.truth["neurons"]["log_ratio"]["neuron"]
    for name in ("group", "common", "group_shuffled", "common_shuffled"):
        assert rows.loc[neuron, f"r_{name}"] == pytest.approx(1, abs=1e-6)
        assert rows.loc[neuron, f"fvu_{name}"] == pytest.approx(0, abs=1e-6)
    assert rows.loc[neuron, "r_pre"] > 0.999
    assert rows.loc[neuron, "contextuality_weights"] > 0.99


def test_planted_neurons_read_what_was_planted(planted: Run, truth: dict[str, Any]) -> None:
    rows, ratio, topics = rows_of(planted), truth["log_ratio"], truth["topics"]
    row = rows.loc[ratio["neuron"]]
    assert row["naive_bayes_r"] == pytest.approx(1, abs=1e-4)
    others = rows.drop([ratio["neuron"], ratio["opposite"]])["naive_bayes_r"].abs()
    assert others.median() < 0.95
    assert row["opposite_id"] == ratio["opposite"]
    assert row["opposite_cosine"] == pytest.approx(-1, abs=1e-6)
    counts = {one[0]: np.log((one[1] + 0.5) / (one[2] + 0.5)) for one in ratio["counts"]}
    highest = sorted(counts.values(), reverse=True)[:32]
    np.testing.assert_allclose([counts[token] for token in row["top_ids"]], highest)
    latents = read_whole(planted, "latents").to_pandas()
    own = latents[latents["neuron"] == topics["neuron"]]
    assert rows.loc[topics["neuron"], "n_latents"] == len(own) == 2
    assert (own["stability"] > 0.97).all()
    tokens = read_whole(planted, "neuron_tokens").to_pandas().set_index("neuron").loc[topics["neuron"]]
    latent_of = dict(zip(tokens["top_ids"], tokens["top_latents"], strict=True))
    planted_ids = [token for one in topics["token_ids"] for token in one]
    assert set(latent_of) == set(planted_ids)
    topic = [0] * len(topics["token_ids"][0]) + [1] * len(topics["token_ids"][1])
    found = np.array([latent_of[token] for token in planted_ids], np.float64)
    named = ~np.isnan(found)
    assert named.mean() > 0.9  # 22 of 256 are like neither enough
    assert adjusted_rand_score(np.array(topic)[named], found[named]) == 1
    components = latents[latents["method"] == "ica"]
    assert (components["stability"] > 0.9).sum() >= 3
    assert {ratio["neuron"], topics["neuron"]} & set(np.concatenate(list(components["neuron_ids"])))


def test_random_groups_are_worse_than_the_planted_one(planted: Run) -> None:
    rows = rows_of(planted)
    assert rows["r_group"].median() > 0.85
    assert rows["r_group_null"].median() < rows["r_group"].median() - 0.05
    assert (rows["r_group_null"] < rows["r_group"]).mean() > 0.9
    assert rows["fvu_group_null"].median() > 2 * rows["fvu_group"].median()


def test_auto_takes_the_contextual_heads_of_a_positions_run(known: Path, truth: dict[str, Any], tmp_path: Path) -> None:
    asked = ["--length", "128", "--windows", "4", "--latents", "0", "--in-process", "--quiet", "--out", str(tmp_path)]
    assert command(["neurons", "--model", str(known), *asked]) == 0
    assert sorted(folder.name.split("-")[0] for folder in tmp_path.iterdir()) == ["neurons", "positions"]
    (folder,) = tmp_path.glob("neurons-*")
    bags = read_whole(Run(folder), "bags").to_pandas()
    assert [f"L0H{head}" for head in bags[bags["in_group"]]["head"]] == truth["group"]


def test_default_checkpoints_stay_what_they_are(planted_tiny: Path, known: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (planted_tiny, known))
    assert set(before) == set(after)
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert {name for name in before if ".ln_" in name or ("c_attn" in name and ".h.0." not in name)} <= same
    own = load_file(planted_tiny / "model.safetensors")
    again = plant(PlantedDesign(size="tiny")).tensors
    assert all(np.array_equal(own[name], again[name]) for name in own)


@pytest.mark.parametrize("shards", [0, 1])
def test_a_stopped_run_ends_with_the_same_files(worded_model: Path, whole: Run, tmp_path: Path, shards: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(worded_model, tmp_path, executor=Stopping(shards))
    result = measure(worded_model, tmp_path)
    assert result.computed == 2 - shards
    assert hashes(result.run) == hashes(whole)
    assert measure(worded_model, tmp_path).computed == 0


@pytest.mark.cluster
def test_ray_leaves_the_same_files(worded_model: Path, whole: Run, tmp_path: Path) -> None:
    asked = ["--length", "48", "--windows", "4", "--latents", "2", "--group", SMALL["group"]]
    assert command(["neurons", "--model", str(worded_model), *asked, "--quiet", "--out", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name == whole.folder.name
    assert hashes(Run(folder)) == hashes(whole)


@pytest.mark.parametrize(
    "changed", [{"group": "L0H0"}, {"windows": 3}, {"latents": 3}, {"resolution": 0.4}, {"seed": 1},
                {"classes": ("the cat", "a dog")}, {"text": "the cat sat on the mat " * 60}],
)  # fmt: skip
def test_what_changes_results_has_a_run_of_its_own(worded_model: Path, changed: dict[str, Any]) -> None:
    model = Model.open("test", worded_model)
    before, after = (NeuronsJob(Neurons(**spec), model).settings() for spec in (SMALL, {**SMALL, **changed}))
    assert before != after


def test_a_plan_has_the_same_shards_and_tables(worded_model: Path, whole: Run) -> None:
    planned = plan_neurons(Shape.read(worded_model), Neurons(**SMALL))
    assert planned.shards == NeuronsJob(Neurons(**SMALL), Model.open("test", worded_model)).plan()
    for table in planned.tables:
        found = read_whole(whole, table.name)
        assert set(found.schema.names) == set(table.schema.names)
        if table.name != "latents":
            assert table.rows == found.num_rows, table.name


def test_two_files_are_typed_behind_classes(
    known: Path, classes: list[Path], planted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--length", "128", "--windows", "4", "--latents", "4", "--group", SMALL["group"], "--classes"]
    line = ["neurons", "--model", str(known), *asked, *map(str, classes), "--in-process", "--quiet"]
    line += ["--out", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["submit", *line])  # which the manifest keeps
    assert command(line) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == planted.folder.name
    assert command(["rerun", str(folder), "--into", str(tmp_path / "again")]) == 0
    assert [one.name for one in (tmp_path / "again").iterdir()] == [folder.name]


def test_rotary_models_are_read_exactly_and_others_refused_by_name(
    planted_tiny: Path, worded_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def model(variant: str) -> Path:
        more = {"vocab_size": 1024, "bos_token_id": 1023, "eos_token_id": 1023}
        folder = make(variant, tmp_path / variant, **more)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(planted_tiny / file, folder / file)
        return folder

    rows = rows_of(measure(model("llama-groups-of-3"), tmp_path / "runs", group="L0H0,L0H4", latents=1).run)
    assert len(rows) == 80
    assert rows["r_group"].notna().all()

    def refusal(folder: Path, *arguments: object) -> str:
        capsys.readouterr()
        asked = ["neurons", "--model", folder, "--out", tmp_path / "none", "--in-process", "--quiet", *arguments]
        assert command(list(map(str, asked))) == 2
        error = capsys.readouterr().err
        said = [line for line in error.splitlines() if line != "positions of layer 0, for its contextual heads"]
        assert [line.startswith("submit: error: ") for line in said] == [True]
        return error

    assert "parallel" in refusal(model("neox"), "--group", "L0H0")
    assert "parallel" in refusal(model("neox-no-bias"))
    assert "a norm has divided" in refusal(model("gemma-2"), "--group", "L0H0")
    assert "layer 1" in refusal(worded_model, "--group", "L1H0")
    assert "L0H8" in refusal(worded_model, "--group", "L0H8")
    assert "contextual" in refusal(worded_model, "--length", 48, "--windows", 4)
    assert "--classes" in refusal(worded_model, "--group", "L0H0", "--classes", tmp_path / "no", tmp_path / "no")
    assert "--latents -1" in refusal(worded_model, "--group", "L0H0", "--latents", -1)
