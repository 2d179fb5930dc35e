"""The positions job: its tables against the model's own attention, resume, sources, plan and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from support.checkpoints import reference
from support.families import make, raw_scores
from support.interruptions import Stopping, hashes
from support.part_files import part_file

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as command
from qkatlas.jobs.plan.shape import Shape
from qkatlas.jobs.positions.job import KERNELS, PositionsJob
from qkatlas.jobs.positions.plan import plan_positions
from qkatlas.jobs.positions.spec import Positions
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import positions as schemas

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"length": 24, "windows": 3}


def measure(folder: Path, out: Path, executor: Any = None, **spec: Any) -> Result:
    job = PositionsJob(Positions(**{**SMALL, **spec}), Model.open("test", folder))
    return submit(job, out=out, executor=executor or InProcessExecutor(), gpus=0)


@pytest.fixture(scope="module")
def whole(worded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measure(worded_model, tmp_path_factory.mktemp("whole"), layers="0-1", heads="1,3").run


@pytest.fixture(scope="module")
def rotary(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(
        "llama-groups-of-3", tmp_path_factory.mktemp("rotary"), vocab_size=1024, bos_token_id=1023, eos_token_id=1023
    )
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(planted_tiny / file, folder / file)
    return folder


def kernel_of(run: Run, layer: int, head: int) -> pa.Table:
    return pq.read_table(part_file(run.folder, f"kernels/L{layer}H{head}/part-00000"), partitioning=None)


def rows_of(run: Run) -> pd.DataFrame:
    return read_whole(run, "positions").to_pandas().set_index(["layer", "head"])


def test_tables_are_there_and_say_what_their_schemas_say(whole: Run) -> None:
    assert soundness.faults(whole) == []
    table = pq.read_table(whole.folder / "positions.parquet")
    assert table.schema.equals(schemas.POSITIONS, check_metadata=True)
    assert list(zip(table["layer"].to_pylist(), table["head"].to_pylist(), strict=True)) == [
        (0, 1), (0, 3), (1, 1), (1, 3)
    ]  # fmt: skip
    assert table["source"].to_pylist() == ["weights", "weights", "text", "text"]
    assert table["tv_factorised"].null_count == 2
    for row in table.to_pylist():
        kernel = kernel_of(whole, row["layer"], row["head"])
        assert kernel.schema.equals(KERNELS.columns, check_metadata=True)
        share_O = kernel["share"].to_numpy()
        np.testing.assert_array_equal(kernel["offset"].to_numpy(), np.arange(23))
        assert share_O.sum() == pytest.approx(1)
        assert row["width"] == pytest.approx(1 / (share_O**2).sum())
        assert row["previous_share"] == share_O[1]
        weight_O = np.exp(kernel["score"].to_numpy())
        np.testing.assert_allclose(share_O, weight_O / weight_O.sum(), rtol=1e-9)
        exact = row["source"] == "weights"
        band = kernel["high"].to_numpy() - kernel["low"].to_numpy()
        assert (band == 0).all() == exact
        assert row["reliability"] == pytest.approx(1 - band.sum() / 2)
    # Any reader takes a folder of them, though layer and head are columns.
    content, denominators = (pd.read_parquet(str(whole.folder / name)) for name in ("content", "denominators"))
    assert content.groupby(["layer", "head"]).size()[0].tolist() == [1023, 1023]
    assert 0 < content.groupby(["layer", "head"]).size()[1].max() < 1023
    assert len(denominators) == 4 * 3 * 22
    places = denominators[["layer", "head", "window", "position"]].drop_duplicates()
    assert len(places) == len(denominators)
    assert set(places["window"]) == {0, 1, 2}


def test_errors_are_those_against_the_models_own_attention(worded_model: Path, whole: Run) -> None:
    """What rests on real attention, from transformers' on the job's own held-out windows."""
    job = PositionsJob(Positions(**SMALL, layers="0-1", heads="1,3"), Model.open("test", worded_model))
    tokens_BT = job._tokens_BT[6:]
    scores, _ = raw_scores(reference(worded_model), torch.from_numpy(tokens_BT))
    denominators = pd.read_parquet(str(whole.folder / "denominators"))
    for (layer, head), row in rows_of(whole).iterrows():
        real_BTT = scores[layer][:, head].softmax(-1).numpy()
        assert row["bos_share"] == pytest.approx(real_BTT[:, 2:, 0].mean(), abs=1e-5)
        conditional = real_BTT[:, :, 1:].copy()
        conditional[:, 1:] /= conditional[:, 1:].sum(-1, keepdims=True)
        equal = [
            conditional[b, n, : n - 1][tokens_BT[b, 1:n] == tokens_BT[b, n]].sum()
            for b in range(3)
            for n in range(2, 24)
            if (tokens_BT[b, 1:n] == tokens_BT[b, n]).any()
        ]
        assert row["equal_share"] == pytest.approx(np.mean(equal), abs=1e-5)
        widths = 1 / (conditional[:, 2:] ** 2).sum(-1)
        assert row["real_width"] == pytest.approx(np.median(widths), rel=1e-4)
        reached = np.tril(np.ones((23, 23)))[1:] / np.arange(2, 24)[:, None]  # all keys alike
        distance = 0.5 * np.abs(conditional[:, 2:] - reached).sum(-1)
        assert row["tv_uniform"] == pytest.approx(np.median(distance), abs=1e-5)
        assert row["tv_uniform_p90"] == pytest.approx(np.quantile(distance, 0.9), abs=1e-5)
        own = denominators[(denominators.layer == layer) & (denominators["head"] == head)]
        assert row["denominator_mean"] == pytest.approx(own[own.position >= 23 // 4].denominator.mean())


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_a_stopped_run_ends_with_the_same_files(worded_model: Path, whole: Run, tmp_path: Path, shards: int) -> None:
    asked = {"layers": "0-1", "heads": "1,3"}
    with pytest.raises(KeyboardInterrupt):
        measure(worded_model, tmp_path, executor=Stopping(shards), **asked)
    result = measure(worded_model, tmp_path, **asked)
    assert result.computed == 4 - shards
    assert hashes(result.run) == hashes(whole)
    assert measure(worded_model, tmp_path, **asked).computed == 0


@pytest.mark.parametrize(
    "changed", [{"destination": "#17"}, {"windows": 2}, {"length": 20}, {"heads": "1"}, {"text": "the cat sat " * 60}]
)
def test_what_changes_results_has_a_run_of_its_own(worded_model: Path, changed: dict[str, Any]) -> None:
    model = Model.open("test", worded_model)
    asked: dict[str, Any] = {**SMALL, "layers": "0", "heads": "1,3"}
    before, after = (PositionsJob(Positions(**spec), model).settings() for spec in (asked, {**asked, **changed}))
    assert before != after
    assert PositionsJob(Positions(**asked), model).settings() == before


@pytest.mark.cluster
def test_ray_leaves_the_same_files(worded_model: Path, whole: Run, tmp_path: Path) -> None:
    asked = ["--length", "24", "--windows", "3", "--layers", "0-1", "--heads", "1,3", "--quiet", "--out", str(tmp_path)]
    assert command(["positions", "--model", str(worded_model), *asked]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name == whole.folder.name
    assert hashes(Run(folder)) == hashes(whole)


def test_a_destination_changes_the_kernel_alone(worded_model: Path, whole: Run, tmp_path: Path) -> None:
    job = PositionsJob(Positions(**SMALL), Model.open("test", worded_model))
    common = int(np.bincount(job._tokens_BT[:6, 1:].ravel()).argmax())
    chosen = rows_of(measure(worded_model, tmp_path, layers="0-1", heads="1,3", destination=f"#{common}").run)
    mean = rows_of(whole)
    assert (chosen["width"] != mean["width"]).all()
    np.testing.assert_allclose(chosen["destination_dependence"], mean["destination_dependence"])


def test_rotary_models_have_waves_and_read_text_or_a_prefix(rotary: Path, tmp_path: Path) -> None:
    text = measure(rotary, tmp_path, heads="L1H4").run
    prefix = measure(rotary, tmp_path, heads="L1H4", source="prefix", prefix="#1023,#5").run
    for run, source in ((text, "text"), (prefix, "prefix")):
        assert soundness.faults(run) == []
        (row,) = rows_of(run).to_dict("records")
        assert (row["kind"], row["source"]) == ("rotary", source)
        assert np.isnan(row["translation_invariance"])
        waves = read_whole(run, "frequencies").to_pandas()
        assert waves["share"].sum() == pytest.approx(1)
        kernel = kernel_of(run, 1, 4).to_pandas()
        angle = kernel["offset"].to_numpy()[:, None] * waves["omega"].to_numpy() + waves["phase"].to_numpy()
        np.testing.assert_allclose(kernel["score"], np.cos(angle) @ waves["amplitude"].to_numpy(), atol=1e-10)


def test_counts_weigh_tokens_where_weights_give_the_means(worded_model: Path, whole: Run, tmp_path: Path) -> None:
    from qkatlas.jobs.inputs.frequencies import Frequencies

    file = tmp_path / "counts.csv"
    file.write_text("token,id,count\na,5,3\nb,9,1\nc,1023,50\n")
    run = measure(worded_model, tmp_path / "runs", heads="L0H1", frequencies=Frequencies.read(file)).run
    content = pd.read_parquet(str(run.folder / "content"))
    assert content["token_id"].tolist() == [5, 9]
    assert content["ln_f"].to_numpy() @ [0.75, 0.25] == pytest.approx(0, abs=1e-9)  # c is relative to the mean
    assert rows_of(run)["width"].iloc[0] != rows_of(whole)["width"].iloc[0]


@pytest.mark.parametrize("asked", [{}, {"layers": "1-2", "heads": "0-2", "length": 40, "windows": 5}])
def test_a_plan_has_the_same_shards_and_tables(worded_model: Path, tmp_path: Path, asked: dict[str, Any]) -> None:
    spec = Positions(**{**SMALL, "layers": "0", **asked})
    planned = plan_positions(Shape.read(worded_model), spec)
    job = PositionsJob(spec, Model.open("test", worded_model))
    assert planned.shards == job.plan()
    run = submit(job, out=tmp_path, executor=InProcessExecutor(), gpus=0).run
    for table in planned.tables:
        found = read_whole(run, table.name)
        assert set(found.schema.names) >= set(table.schema.names)
        if table.name != "content" or "layers" not in asked:
            assert table.rows == found.num_rows, table.name


def test_the_command_plans_and_refuses(
    worded_model: Path, rotary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["plan", "positions", "--model", "gpt2", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["job"], planned["shards"]) == ("positions", 144)

    def refusal(*arguments: object, model: Path = worded_model) -> str:
        asked = ["positions", "--model", model, "--out", tmp_path / "none", "--in-process", *arguments]
        assert command(list(map(str, asked))) == 2
        error = capsys.readouterr().err
        assert error.startswith("submit: error: ")
        assert error.count("\n") == 1
        return error

    assert "--source text" in refusal("--source", "prefix")
    assert "--length 65" in refusal("--length", 65)
    short = tmp_path / "short.txt"
    short.write_text("the cat sat on the mat")
    assert "tokens of text" in refusal("--text", short)
    assert "does not occur" in refusal("--destination", "#1022", "--layers", 1)
    assert "no single token" in refusal("--destination", "no such word at all")
    assert "--source prefix" in refusal("--prefix", "#1")
    assert "L7H0" in refusal("--heads", "L7H0")
    assert not (tmp_path / "none").exists()


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    assert command(["model", "planted", str(folder), "--size", "tiny", "--positions"]) == 0
    return folder


def test_planted_kernels_are_found(calibrated: Path, tmp_path: Path) -> None:
    roles: dict[str, str] = json.loads((calibrated / "truth.json").read_text())["heads"]
    rows = rows_of(measure(calibrated, tmp_path / "runs", length=256, windows=6).run)
    named = {"previous-token": "previous", "duplicate-token": "duplicate", "BOS sink": "sink"}
    named |= {name: name for name in ("positional", "contextual", "detokenisation")}
    planted = {head: named[role] for head, role in roles.items() if role in named}
    assert len(planted) == 10
    found = {f"L{layer}H{head}": row["class"] for (layer, head), row in rows.iterrows()}
    assert {head: found[head] for head in planted} == planted
    assert sum(found[head] != "none" for head in found if head not in roles) == 0
    assert rows.loc[(0, 0)]["decay_length"] == pytest.approx(12, rel=0.1)
    assert rows.loc[(0, 2)]["decay_length"] == pytest.approx(25, rel=0.1)


def test_what_is_planted_beside_them_stays_what_it_is(planted_tiny: Path, calibrated: Path) -> None:
    """Other heads keep their queries and keys bit for bit; tokens and positions change along one direction alone."""
    before, after = (load_file(folder / "model.safetensors") for folder in (planted_tiny, calibrated))
    added = {(0, 0), (0, 2), (0, 3), (2, 1), (2, 2), (2, 3)}
    for layer in range(3):
        name = f"transformer.h.{layer}.attn.c_attn.weight"
        same = (before[name] == after[name]).reshape(128, 3, 8, 16)
        for head in range(8):
            assert same[:, :2, head].all() == ((layer, head) not in added)
        assert same[:, 2].all()
    climb_TD = (after["transformer.wpe.weight"] - before["transformer.wpe.weight"]).astype(float)
    _, size, (direction_D, *_) = np.linalg.svd(climb_TD, full_matrices=False)
    assert size[1] < 1e-5 * size[0]
    written = after["transformer.wte.weight"] @ direction_D
    assert np.abs(written).max() < 1e-5
    moved_VD = (after["transformer.wte.weight"] - before["transformer.wte.weight"]).astype(float)
    np.testing.assert_allclose(moved_VD, np.outer(moved_VD @ direction_D, direction_D), atol=1e-6)


def test_shuffled_positions_lose_their_kernels(calibrated: Path, tmp_path: Path) -> None:
    from qkatlas.jobs.inputs.resolve import write_checkpoint
    from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
    from qkatlas.pipeline.planted.positions import with_positions, with_shuffled_positions

    shuffled = with_shuffled_positions(with_positions(plant(PlantedDesign(size="tiny"))), 0)
    write_checkpoint(shuffled, tmp_path / "shuffled")
    asked: dict[str, Any] = {"heads": "L0H0,L0H2,L0H3", "length": 256, "windows": 4}
    before = rows_of(measure(calibrated, tmp_path / "runs", **asked).run)
    after = rows_of(measure(tmp_path / "shuffled", tmp_path / "runs", **asked).run)
    assert (before["translation_invariance"] > 0.95).all()
    assert (after["translation_invariance"] < 0.5).all()
    assert set(before["class"]) == {"positional", "contextual", "detokenisation"}
    assert not set(after["class"]) & {"previous", "detokenisation"}
