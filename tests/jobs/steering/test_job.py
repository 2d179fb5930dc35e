"""Steering: the planted dose-response, its control, agreement with unsteered tables and with dense float64, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import reference
from scipy.stats import spearmanr
from support.interruptions import Stopping, hashes
from support.part_files import part_file
from support.refusals import refused

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as submit_command
from qkatlas.jobs.steering import work
from qkatlas.jobs.steering.group import GROUP
from qkatlas.jobs.steering.job import SteeringJob
from qkatlas.jobs.steering.spec import Steering
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import steering as schemas_steering
from qkatlas.pipeline.circuit.kin import nearest, unit_states
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.scoring.rows import PreparedKeys

pytestmark = pytest.mark.slow

GRID: dict[str, Any] = {
    "alphas": (1.0, 0.0),
    "draws": 1,
    "ranks": (2,),
    "scales": (0.5,),
    "steps": (0.3,),
    "sample": 16,
}


def steer(folder: Path, out: Path, executor: Any = None, **spec: Any) -> Result:
    job = SteeringJob(Steering(**spec), Model.open("test", folder))
    return submit(job, out=out, executor=executor or InProcessExecutor(), gpus=0)


def grid_of(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run.folder / "steering.parquet").to_pylist()
    return rows


def tokens_at(run: Run, point: int) -> Any:
    return pq.read_table(part_file(run.folder, f"steered/point={point:04d}/part-00000"), partitioning=None)


@pytest.fixture(scope="module")
def planted(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return steer(planted_tiny, tmp_path_factory.mktemp("planted"), methods=("eigen",), draws=2, sample=64).run


@pytest.fixture(scope="module")
def small_grid(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return steer(random_model, tmp_path_factory.mktemp("grid"), **GRID).run


def test_the_planted_head_responds_to_the_dose_and_keeps_its_categories(planted: Run) -> None:
    rows = [row for row in grid_of(planted) if row["method"] == "eigen"]
    assert [row["alpha"] for row in rows] == [1.5, 1.25, 1.1, 1.0, 0.75, 0.5, 0.25, 0.0, -0.5, -1.0]
    ranks = [row["self_rank_mean"] for row in rows]
    assert all(higher > lower for higher, lower in pairwise(ranks))
    assert ranks[3] > 0.85 * 1024
    assert ranks[7] < 0.1 * 1024
    for row in rows:
        if row["alpha"] <= 1.1:
            assert row["category_precision_at_k"] >= 0.95
    assert rows[0]["category_tokens"] > 100


def test_the_random_control_is_damage_without_direction(planted: Run) -> None:
    rows = grid_of(planted)
    unsteered = rows[0]
    eigen = {row["alpha"]: row for row in rows if row["method"] == "eigen"}
    for alpha in (0.5, 0.25, 0.0):
        drawn = [row for row in rows if row["method"] == "control" and row["alpha"] == alpha]
        assert len(drawn) == 2
        assert [row["dose"] for row in drawn] == pytest.approx([eigen[alpha]["dose"]] * 2)
        # 16 eigenvalues are all the head has here, so a control hits much of what matters.
        moved = unsteered["self_rank_mean"] - np.mean([row["self_rank_mean"] for row in drawn])
        assert moved < 0.25 * (unsteered["self_rank_mean"] - eigen[alpha]["self_rank_mean"])
    lost = [row["category_precision_at_k"] for row in rows if row["method"] == "control" and row["alpha"] == -1]
    assert np.mean(lost) < eigen[-1.0]["category_precision_at_k"] - 0.3


@pytest.mark.parametrize(("form", "states"), [("attention", "mlp"), ("bilinear", "mlp"), ("attention", "bos")])
def test_alpha_1_is_the_unsteered_run_bit_for_bit(planted_tiny: Path, tmp_path: Path, form: str, states: str) -> None:
    asked = {"scores": form, "states": states}
    run = steer(planted_tiny, tmp_path, methods=("eigen",), alphas=(1.0,), draws=0, **asked).run
    job = FullVocabJob(FullVocab(top_k=10, **asked), Model.open("test", planted_tiny))
    plain = submit(job, out=tmp_path, executor=InProcessExecutor(), gpus=0).run
    for name in ("topk", "self"):
        expected = ds.dataset(plain.folder / name, partitioning=None).to_table().sort_by("token_id")
        found = ds.dataset(run.folder / name, partitioning=None).to_table()
        assert found.select(expected.column_names).equals(expected)
    own = tokens_at(run, 1)
    for column in ("self_score", "self_rank", "self_z"):
        assert own[column].equals(expected[column])
    assert own.equals(tokens_at(run, 0))
    unsteered, same = grid_of(run)
    for column in set(same) - {"point", "method", "alpha"}:
        assert same[column] == unsteered[column], column
    assert same["overlap_at_k"] == same["spearman"] == 1.0


@pytest.mark.parametrize("point", range(6))
def test_every_column_equals_brute_force(
    random_model: Path, small_grid: Run, reference_scores: Callable[..., np.ndarray], point: int
) -> None:
    """Against scores made in V x V from the form's dense change."""
    row = grid_of(small_grid)[point]
    base_VV = reference_scores(random_model, 1, 5)
    scores_VV = base_VV + dense_change(random_model, row) / np.sqrt(8)
    own_V = np.diag(scores_VV)
    rank_V = 1 + (scores_VV > own_V[:, None]).sum(1)
    mean_V, std_V = scores_VV.mean(1), scores_VV.std(1)
    checkpoint = Model.open("test", random_model).checkpoint
    states_VD = TokenStates(checkpoint, "mlp", threads=1).advance_to(1)
    unit_VD = unit_states(states_VD, checkpoint.architecture.norm, threads=1)
    kin_VN, _ = nearest(PreparedKeys(unit_VD), slice(0, 211), threads=1)
    kin_z_V = (np.take_along_axis(scores_VV, kin_VN, 1).mean(1) - mean_V) / std_V
    best, steered = (np.argsort(-part_VV, axis=1, kind="stable")[:, :10] for part_VV in (base_VV, scores_VV))
    overlap_V = [len(set(a) & set(b)) / 10 for a, b in zip(best.tolist(), steered.tolist(), strict=True)]

    table = tokens_at(small_grid, point)
    assert table.schema.equals(schemas_steering.STEERED, check_metadata=True)
    np.testing.assert_allclose(table["self_score"].to_numpy(), own_V, atol=1e-5 * np.abs(scores_VV).max())
    np.testing.assert_allclose(table["self_z"].to_numpy(), (own_V - mean_V) / std_V, atol=2e-4)
    np.testing.assert_allclose(table["kin_z"].to_numpy(), kin_z_V, atol=2e-4)
    assert (table["self_rank"].to_numpy() == rank_V).mean() > 0.98
    assert (np.abs(table["overlap"].to_numpy() - overlap_V) < 1e-6).mean() > 0.98
    assert row["self_rank_mean"] == pytest.approx(rank_V.mean(), rel=1e-3)
    assert row["self_rank_median"] == pytest.approx(np.median(rank_V), abs=1)
    assert row["self_mrr"] == pytest.approx((1 / rank_V).mean(), rel=1e-2)
    for n in (1, 10, 128, 1024):
        assert row[f"self_top{n}_share"] == pytest.approx((rank_V <= n).mean(), abs=0.01)
    assert row["kin_z_mean"] == pytest.approx(kin_z_V.mean(), abs=1e-4)
    assert row["overlap_at_k"] == pytest.approx(np.mean(overlap_V), abs=2e-3)
    samples = pq.read_table(small_grid.folder / "samples.parquet", filters=[("sample", "==", "spearman")])
    drawn = samples["token_id"].to_pylist()
    assert len(drawn) == row["spearman_rows"] == 16
    correlations = [spearmanr(base_VV[token], scores_VV[token]).statistic for token in drawn]
    assert row["spearman"] == pytest.approx(np.mean(correlations), abs=1e-5)
    assert row["spearman_std"] == pytest.approx(np.std(correlations), abs=1e-4)
    assert row["category_precision_at_k"] is None  # the model's tokens have no texts
    assert row["category_tokens"] == 0


def dense_change(folder: Path, row: dict[str, Any]) -> np.ndarray:
    """N dW N^T of a grid point, [V, V]; the gradient's with the biases' part."""
    from qkatlas.pipeline.circuit.point import Point
    from qkatlas.pipeline.circuit.projection import head_weights
    from qkatlas.pipeline.circuit.steering import SteerableHead, folded
    from qkatlas.pipeline.models.head import Head

    model = Model.open("test", folder)
    own = folded(head_weights(model.checkpoint, Head(1, 5)))
    normed_VD = reference.normalised(TokenStates(model.checkpoint, "mlp", threads=1).advance_to(1))
    w_q, w_k = np.split(own.w_qk_D2H, 2, axis=1)
    w_DD = w_q @ w_k.T
    if row["method"] == "eigen":
        values, vectors = np.linalg.eigh((w_DD + w_DD.T) / 2)
        change_DD = (vectors * np.where(values < 0, (row["alpha"] - 1) * values, 0)) @ vectors.T
    elif row["method"] == "singular":
        left, values, right = np.linalg.svd(w_DD)
        values[row["rank"] :] = 0
        change_DD = (left * ((row["scale"] - 1) * values)) @ right
    elif row["method"] == "gradient":
        gradient = normed_VD.T @ normed_VD @ w_q
        moved = gradient * row["step"] * np.linalg.norm(w_k) / np.linalg.norm(gradient)
        b_q = np.split(own.b_qk_2H, 2)[0]
        return np.asarray((normed_VD @ w_q + b_q) @ (normed_VD @ moved).T)
    elif row["method"] == "control":
        # Which eigenvalues it moves is drawn by the code under test; how they act is checked here.
        moment_DD = normed_VD.T @ normed_VD / len(normed_VD)
        steerable = SteerableHead(Head(1, 5), head_weights(model.checkpoint, Head(1, 5)), moment_DD, seed=0)
        steered = steerable.at(Point(method="control", alpha=row["alpha"], draw=row["draw"])).weights
        q, k = np.split(steered.w_qk_D2H, 2, axis=1)
        change_DD = q @ k.T - w_DD
    else:
        change_DD = np.zeros_like(w_DD)
    return np.asarray(normed_VD @ change_DD @ normed_VD.T)


def test_tables_follow_their_schemas(small_grid: Run, planted: Run) -> None:
    assert [row["method"] for row in grid_of(small_grid)] == [
        "unsteered", "eigen", "eigen", "control", "singular", "gradient",
    ]  # fmt: skip
    for name, schema in (
        ("steering", schemas_steering.STEERING),
        ("samples", schemas_steering.SAMPLES),
        ("heatmap", schemas_steering.HEATMAP),
    ):
        assert pq.read_schema(small_grid.folder / f"{name}.parquet").equals(schema, check_metadata=True)
    assert soundness.faults(small_grid) == []
    spec = json.loads((Path(planted.folder) / "manifest.json").read_text())["spec"]
    assert (spec["seed"], spec["sample"], spec["draws"]) == (0, 64, 2)


def test_draws_are_controls_but_with_the_states_that_have_draws(worded_model: Path) -> None:
    """Requests that were made before keep their meaning and their run's id."""
    model = Model.open("test", worded_model)

    def settings(**spec: Any) -> dict[str, Any]:
        return SteeringJob(Steering(**spec), model).settings()

    plain = settings()
    assert plain["draws"] == 2
    assert not {"controls", "prefix", "windows"} & set(plain)
    assert settings(draws=3) == settings(controls=3) == plain | {"draws": 3}
    few = {"states": "context", "windows": 40}
    context = settings(**few, draws=3)
    assert (context["draws"], context["controls"], context["windows"], context["prefix"]) == (3, 2, 40, [1023])
    assert settings(**few, draws=3, controls=0) == context | {"controls": 0}
    assert settings(states="prefix", prefix="#1023", draws=1) == plain | {
        "states": "prefix", "prefix": [1023], "draws": 1,
    }  # fmt: skip
    points = Steering(**few, draws=3, controls=1, methods=("eigen",), alphas=(0.5,)).points()  # type: ignore[arg-type]
    assert [point.method for point in points] == ["unsteered", "eigen", "control"]


@pytest.mark.parametrize(
    "spec", [{"states": "prefix", "prefix": "#1023,#7"}, {"states": "context", "windows": 40, "draws": 3}]
)
def test_the_unsteered_point_is_the_full_vocab_run_of_the_same_states(
    worded_model: Path, tmp_path: Path, spec: dict[str, Any]
) -> None:
    run = steer(worded_model, tmp_path, head="L2H3", methods=("eigen",), alphas=(1.0, 0.0), controls=0, **spec).run
    job = FullVocabJob(FullVocab(head="L2H3", top_k=10, **spec), Model.open("test", worded_model))
    plain = submit(job, out=tmp_path, executor=InProcessExecutor(), gpus=0).run
    for folder in (run.folder, plain.folder):
        assert len(list((Path(folder) / "topk").rglob("*.parquet"))) == 1
    found, expected = (
        pq.read_table(part_file(of.folder, "topk/L2H3/part-00000"), partitioning=None) for of in (run, plain)
    )
    assert found.equals(expected)
    assert grid_of(run)[1]["overlap_at_k"] == 1 > grid_of(run)[2]["overlap_at_k"]


def test_heat_maps_of_a_group(planted: Run, planted_tiny: Path, reference_scores: Callable[..., np.ndarray]) -> None:
    table = pq.read_table(planted.folder / "heatmap.parquet").to_pandas()
    model = Model.open("test", planted_tiny)
    ids = [token for text in GROUP if (token := model.vocabulary.find(text)) is not None]
    assert [model.vocabulary.text(i) for i in ids[:2]] == [" Monday", " Tuesday"]
    maps = {
        name: part.pivot(index="query_id", columns="key_id", values="score").loc[ids, ids].to_numpy()
        for name, part in table.groupby("condition")
    }
    assert list(dict.fromkeys(table["condition"])) == [
        "base", "sym", "skew", "alpha=1.5", "alpha=1.25", "alpha=1.1", "alpha=1", "alpha=0.75", "alpha=0.5",
        "alpha=0.25", "alpha=0", "alpha=-0.5", "alpha=-1",
    ]  # fmt: skip
    base_VV = reference_scores(planted_tiny, 1, 5)
    size = np.abs(base_VV).max()
    np.testing.assert_allclose(maps["base"], base_VV[np.ix_(ids, ids)], atol=1e-5 * size)
    np.testing.assert_array_equal(maps["base"], maps["alpha=1"])
    np.testing.assert_allclose(maps["sym"] + maps["skew"], maps["base"], atol=1e-5 * size)
    assert np.abs(np.diag(maps["skew"])).max() <= 1e-6 * size
    assert (np.diag(maps["alpha=-1"]) > np.diag(maps["alpha=1.5"])).all()


@pytest.mark.parametrize("shards", [0, 1, 2, 5])
def test_a_stopped_run_ends_with_the_same_files(
    random_model: Path, small_grid: Run, tmp_path: Path, shards: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        steer(random_model, tmp_path, executor=Stopping(shards), **GRID)
    result = steer(random_model, tmp_path, **GRID)
    assert result.computed == 8 - shards
    assert hashes(result.run) == hashes(small_grid)
    assert steer(random_model, tmp_path, **GRID).computed == 0


@pytest.mark.parametrize("table", ["kin/L1", "topk/L1H5", "steered/point=0003", "heatmap"])
def test_a_damaged_part_is_computed_again_and_nothing_else(
    random_model: Path, small_grid: Run, tmp_path: Path, table: str
) -> None:
    run = steer(random_model, tmp_path, **GRID).run
    part_file(run.folder, f"{table}/part-00000").write_bytes(b"")
    result = steer(random_model, tmp_path, **GRID)
    assert result.computed == 1
    assert hashes(result.run) == hashes(small_grid)


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_a_run_goes_on_where_states_have_other_bits(
    random_model: Path, small_grid: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        steer(random_model, tmp_path, executor=Stopping(shards), **GRID)
    as_elsewhere(monkeypatch)
    result = steer(random_model, tmp_path, **GRID)
    assert result.failures == {}
    assert hashes(result.run) == hashes(steer(random_model, tmp_path / "whole", **GRID).run)


def test_a_finished_run_is_repaired_where_states_have_other_bits(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = steer(random_model, tmp_path, **GRID).run
    part_file(run.folder, "steered/point=0003/part-00000").write_bytes(b"")
    as_elsewhere(monkeypatch)
    assert steer(random_model, tmp_path, **GRID).failures == {}
    assert soundness.faults(run) == []


def as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give token states another last bit, as another processor may."""
    advance_to = TokenStates.advance_to

    def moved(states: TokenStates, layer: int) -> np.ndarray:
        values_VD = advance_to(states, layer).copy()
        values_VD[0, 0] = np.nextafter(values_VD[0, 0], np.inf, dtype=np.float32)
        return values_VD

    monkeypatch.setattr(TokenStates, "advance_to", moved)


def never(*arguments: Any) -> None:
    raise AssertionError("kin were looked for again")


def test_kin_of_another_run_give_the_same_files_and_are_not_looked_for_again(
    random_model: Path, small_grid: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Steering(**{**GRID, "skew": "drop"})
    alone = steer(random_model, tmp_path / "alone", **{**GRID, "skew": "drop"})
    monkeypatch.setattr(work, "find_kin", never)
    job = SteeringJob(spec, Model.open("test", random_model), kin_of=Run(small_grid.folder))
    result = submit(job, out=tmp_path / "copied", executor=InProcessExecutor(), gpus=0)
    assert result.failures == {}
    assert hashes(result.run) == hashes(alone.run)
    assert result.run.folder.name == alone.run.folder.name


def test_kin_of_other_states_are_not_taken(
    random_model: Path, small_grid: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_elsewhere(monkeypatch)
    job = SteeringJob(Steering(**GRID), Model.open("test", random_model), kin_of=small_grid)
    result = submit(job, out=tmp_path / "copied", executor=InProcessExecutor(), gpus=0)
    assert hashes(result.run) == hashes(steer(random_model, tmp_path / "alone", **GRID).run)


def test_kin_that_are_not_what_was_committed_are_not_taken(random_model: Path, tmp_path: Path) -> None:
    other = steer(random_model, tmp_path / "other", **GRID).run
    part_file(other.folder, "kin/L1/part-00000").write_bytes(b"")
    job = SteeringJob(Steering(**{**GRID, "skew": "drop"}), Model.open("test", random_model), kin_of=other)
    result = submit(job, out=tmp_path / "copied", executor=InProcessExecutor(), gpus=0)
    assert soundness.faults(result.run) == []
    assert hashes(result.run) == hashes(steer(random_model, tmp_path / "alone", **{**GRID, "skew": "drop"}).run)


def test_points_are_the_same_in_any_grid(random_model: Path, small_grid: Run, tmp_path: Path) -> None:
    run = steer(random_model, tmp_path, **{**GRID, "methods": ("gradient",)}).run
    assert tokens_at(run, 1).equals(tokens_at(small_grid, 5))


def test_a_vocabulary_of_one_has_no_kin_and_no_spread(make_random_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_random_model(vocab_size=1)
    row = grid_of(steer(folder, tmp_path, top_k=1, **GRID).run)[-1]
    assert row["self_rank_mean"] == 1
    assert row["kin_z_mean"] is None
    assert row["spearman"] is None


IN_MODEL: dict[str, Any] = {
    "methods": ("eigen",), "alphas": (1.0, 0.0, -1.0), "draws": 1, "in_model": True, "prompts": 6, "length": 20,
}  # fmt: skip


def test_inside_the_model_tokens_attend_to_themselves_as_alpha_falls(planted_tiny: Path, tmp_path: Path) -> None:
    run = steer(planted_tiny, tmp_path, **IN_MODEL).run
    table = pq.read_table(run.folder / "in_model.parquet")
    assert table.schema.equals(schemas_steering.IN_MODEL, check_metadata=True)
    rows = table.to_pylist()
    assert [(row["method"], row["alpha"]) for row in rows] == [(row["method"], row["alpha"]) for row in grid_of(run)]
    unsteered, same, none, flipped, control, _ = rows
    for name in ("identical_mass", "category_mass", "bos_mass", "loss"):
        assert same[name] == unsteered[name]
        prompts = pq.read_table(part_file(run.folder, "in_model/point=0003/part-00000"), partitioning=None)
        assert flipped[name] == pytest.approx(prompts[name].to_numpy().mean())
    assert unsteered["loss_delta"] == same["loss_delta"] == 0
    assert unsteered["identical_mass"] < 0.01 < none["identical_mass"] < flipped["identical_mass"]
    assert unsteered["category_mass"] > 0.5
    assert control["identical_mass"] < 0.5 * none["identical_mass"]
    assert flipped["loss_delta"] == pytest.approx(flipped["loss"] - unsteered["loss"])
    assert flipped["loss_delta"] != 0
    assert {row["n_prompts"] for row in rows} == {6}

    with pytest.raises(KeyboardInterrupt):
        steer(planted_tiny, tmp_path / "again", executor=Stopping(9), **IN_MODEL)
    result = steer(planted_tiny, tmp_path / "again", **IN_MODEL)
    assert result.computed == 14 - 9
    assert hashes(result.run) == hashes(run)


def test_inside_the_model_scores_are_attention_scores_whatever_the_tables_form(
    planted_tiny: Path, tmp_path: Path
) -> None:
    grid = {"methods": ("eigen",), "alphas": (1.0, 0.5), "draws": 0, "in_model": True, "prompts": 4, "length": 10}
    runs = [steer(planted_tiny, tmp_path, scores=form, **grid).run for form in ("attention", "bilinear")]
    inside, same = (pq.read_table(run.folder / "in_model.parquet") for run in runs)
    assert inside.equals(same)
    assert hashes(runs[0])["steering.parquet"] != hashes(runs[1])["steering.parquet"]


def test_prompts_count_only_where_they_are_run(planted_tiny: Path, random_model: Path) -> None:
    model = Model.open("test", planted_tiny)

    def settings(**spec: Any) -> dict[str, Any]:
        return SteeringJob(Steering(**spec), model).settings()

    assert settings(prompts=5) == settings(prompts=6, length=9)
    assert settings(prompts=5, in_model=True) != settings(prompts=6, in_model=True)
    assert settings(length=64, in_model=True) == settings(in_model=True)
    with pytest.raises(ValueError, match="--length 512 is more than the model reads"):
        settings(length=512, in_model=True)
    with pytest.raises(ValueError, match="--in-model needs prompts of category words"):
        SteeringJob(Steering(methods=("eigen",), in_model=True), Model.open("test", random_model))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--methods", "eigen,magic"], ["--methods", "'magic'", "eigen, singular, gradient"]),
        (["--alpha", "1,x"], ["--alpha", "'1,x'", "1.5,1,-0.5"]),
        (["--alpha", "1,1"], ["--alpha", "twice"]),
        (["--alpha", "nan"], ["--alpha", "nan"]),
        (["--skew", "halve"], ["--skew", "'halve'", "keep, drop"]),
        (["--eigenvalues", "some"], ["--eigenvalues", "all, top"]),
        (["--move", "values"], ["--move", "queries, keys, both"]),
        (["--rank", "0"], ["--rank 0", "at least one"]),
        (["--rank", "9"], ["--rank 9", "8 singular values"]),
        (["--rank", "1.5"], ["--rank", "whole numbers"]),
        (["--draws", "-1"], ["--draws -1", "from 0 to 1000"]),
        (["--draws", "100000000"], ["--draws 100000000", "from 0 to 1000"]),
        (["--draws", "500"], ["points", "1000", "--controls"]),
        (["--controls", "-1"], ["--controls -1", "from 0 to 1000"]),
        (["--draws", "1", "--controls", "2"], ["--draws 1 is the old name of --controls 2", "leave it out"]),
        (["--draws", "0", "--states", "context"], ["--draws 0 reads no window", "1 or more"]),
        (["--windows", "9"], ["--windows 9", "--states context"]),
        (["--states", "prefix"], ["--states prefix needs its tokens"]),
        (["--sample", "0"], ["--sample 0", "from 1 to 4096"]),
        (["--sample", "50000"], ["--sample 50000", "from 1 to 4096"]),
        (["--prompts", "0"], ["--prompts 0", "choose from 1"]),
        (["--seed", "-1"], ["--seed -1", "0 or more"]),
        (["--group", "/nowhere"], ["--group /nowhere", "one token a line"]),
        (["--head", "L1H8"], ["L1H8", "L0H0 to L2H7"]),
        (["--top-k", "212"], ["--top-k 212", "211"]),
    ],
)
def test_a_bad_request_is_one_line(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    refused("steering", random_model, tmp_path, capsys, arguments, named)


def test_the_command_prints_one_row_a_point_and_reads_a_group(
    planted_tiny: Path, random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = tmp_path / "group.txt"
    group.write_text("red\nblue\n\nno such token\n")
    command = ["steering", "--model", str(planted_tiny), "--in-process", "--out", str(tmp_path / "runs")]
    command += ["--methods", "eigen", "--alpha", "1,-0.5", "--draws", "2", "--group", str(group)]
    assert submit_command(command) == 0
    printed = capsys.readouterr().out
    for label in ("unsteered", "eigen alpha 1 ", "eigen alpha -0.5", "control alpha -0.5 x2"):
        assert label in printed
    (run,) = (tmp_path / "runs").iterdir()
    assert pq.read_table(run / "heatmap.parquet").num_rows == 5 * 4
    small = ["steering", "--model", str(random_model), "--in-process", "--out", str(tmp_path / "small")]
    assert submit_command([*small, "--methods", "singular", "--scale", "0"]) == 0
    printed = capsys.readouterr().out
    assert "singular r 4 s 0" in printed  # of the default ranks, those that a head of 8 has
    assert "singular r 16 s 0" not in printed
    group.write_text("no such token\n")
    assert submit_command(command) == 2
    assert "none is one token" in capsys.readouterr().err
