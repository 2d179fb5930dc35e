"""The job ablation: its tables against their per-prompt parts, the planted truth, and itself after a fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from support.interruptions import Stopping, hashes
from support.part_files import part_file
from transformers import GPT2LMHeadModel

from qkatlas.cluster.executor import Capacity, Node
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.ablation import corpus as corpus_module
from qkatlas.jobs.ablation.job import AblationJob
from qkatlas.jobs.ablation.spec import Ablation
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as submit_command
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import ablation as schemas_ablation
from qkatlas.outputs.schemas import prompts as schemas_prompts
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.text.passages import Passages, tokenise

TEXT = "Monday red Tuesday blue, 1 2 3 red Friday.\n" * 3


def sweep(folder: Path, out: Path, executor: Any = None, **spec: Any) -> Result:
    job = AblationJob(Ablation(**{"prompts": 6, "length": 8, **spec}), Model.open("test", folder))
    return submit(job, out=out, executor=executor or InProcessExecutor(), gpus=0)


def rows(run: Run, table: str = "ablation") -> list[dict[str, Any]]:
    return pq.read_table(run.folder / f"{table}.parquet").to_pylist()


class OneThread(InProcessExecutor):
    def capacity(self) -> Capacity:
        return Capacity((Node(1, 0),))


@pytest.fixture(scope="module")
def whole(worded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return sweep(worded_model, tmp_path_factory.mktemp("sweep")).run


@pytest.mark.slow
def test_every_reachable_pair_and_no_other_is_reported(whole: Run) -> None:
    table = rows(whole)
    expected = [("none", layer, head) for layer in range(3) for head in range(8)]
    expected += [(name, layer, head) for name in ("embed", "pos_embed") for layer in range(3) for head in range(8)]
    for below in range(2):
        names = [f"attn_{below}", f"mlp_{below}", f"mlp_{below}_residual", *(f"L{below}H{head}" for head in range(8))]
        expected += [(name, layer, head) for name in names for layer in range(below + 1, 3) for head in range(8)]
    assert [(row["component"], row["target_layer"], row["target_head"]) for row in table] == expected
    assert {row["n_prompts"] for row in table} == {6}
    # The last layer's components reach no head, but predictions.
    losses = rows(whole, "losses")
    assert len(losses) == 1 + 2 + 3 * 11
    assert {row["component"] for row in losses} >= {"attn_2", "mlp_2_residual", "L2H7"}
    assert {(row["n_passages"], row["n_tokens"]) for row in losses} == {(6, 48)}
    assert soundness.faults(whole) == []


def test_tables_follow_their_schemas(whole: Run) -> None:
    for name, schema in (
        ("ablation.parquet", schemas_ablation.ABLATION),
        ("losses.parquet", schemas_ablation.LOSSES),
        ("prompts.parquet", schemas_prompts.prompts(9)),
        ("prompt_scores/source=L0/part-00000", schemas_ablation.PROMPT_SCORES),
        ("passage_losses/source=none/part-00000", schemas_ablation.PASSAGE_LOSSES),
        ("output_sums/corpus=prompts/part-00000", schemas_ablation.output_sums(64)),
    ):
        found = pq.read_schema(whole.folder / name if name.endswith(".parquet") else part_file(whole.folder, name))
        assert found.equals(schema), name
        assert [field.metadata for field in found] == [field.metadata for field in schema], name


def test_rows_are_what_the_prompts_say(whole: Run) -> None:
    import pandas

    scores = ds.dataset(whole.folder / "prompt_scores", partitioning="hive").to_table().to_pandas()
    by = ["component", "target_layer", "target_head"]
    spread = scores.pivot_table(index=by, columns="prompt", values="score")
    losses = ds.dataset(whole.folder / "passage_losses", partitioning="hive").to_table().to_pandas()
    loss = losses.groupby("component")["loss"].sum() / losses.groupby("component")["n_tokens"].sum()
    table = pandas.DataFrame(rows(whole)).set_index(by)
    assert len(table) == len(spread)
    rng = np.random.default_rng(1)
    for place, row in table.iterrows():
        scores_P = spread.loc[place].to_numpy()
        change_P = scores_P - spread.loc[("none", *place[1:])].to_numpy()
        assert row["score_mean"] == pytest.approx(scores_P.mean())
        assert row["score_std"] == pytest.approx(scores_P.std())
        assert row["delta"] == pytest.approx(change_P.mean(), abs=1e-12)
        assert row["loss_delta"] == pytest.approx(loss[place[0]] - loss["none"], abs=1e-12)
        assert row["delta_low"] <= row["delta"] <= row["delta_high"]
    # The interval of one row against another bootstrap of our own.
    place = ("mlp_0", 1, 5)
    change_P = spread.loc[place].to_numpy() - spread.loc[("none", 1, 5)].to_numpy()
    means = rng.choice(change_P, (4000, len(change_P))).mean(1)
    own = table.loc[place]
    width = np.subtract(*np.percentile(means, [97.5, 2.5]))
    assert own["delta_low"] == pytest.approx(np.percentile(means, 2.5), abs=0.1 * width)
    assert own["delta_high"] == pytest.approx(np.percentile(means, 97.5), abs=0.1 * width)


@pytest.mark.slow
def test_a_stopped_sweep_ends_with_the_same_files(worded_model: Path, whole: Run, tmp_path: Path) -> None:
    for stop in (0, 1, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            sweep(worded_model, tmp_path / str(stop), executor=Stopping(stop))
        result = sweep(worded_model, tmp_path / str(stop))
        assert result.computed == 5 - stop
        assert hashes(result.run) == hashes(whole)
    assert sweep(worded_model, tmp_path / "0").computed == 0


@pytest.mark.slow
def test_threads_and_shards_change_no_bit(
    worded_model: Path, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hashes(sweep(worded_model, tmp_path / "threads", executor=OneThread()).run) == hashes(whole)
    monkeypatch.setattr(corpus_module, "PROMPTS_PER_SHARD", 4)
    cut = sweep(worded_model, tmp_path / "shards")
    assert cut.computed == 10
    assert hashes(cut.run, "*.parquet") == hashes(whole, "*.parquet")


@pytest.mark.parametrize("kind", ["zero", "resample"])
def test_other_kinds_of_replacement(
    worded_model: Path, whole: Run, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sweep(worded_model, tmp_path, kind=kind, targets="L1")
    assert {row["component"] for row in rows(found.run)} >= {"none", "embed", "L0H7"}
    clean = {row["target_head"]: row for row in rows(whole) if row["component"] == "none" and row["target_layer"] == 1}
    same = ("score_mean", "score_std", "delta")
    for row in rows(found.run):
        if row["component"] == "none":
            assert all(row[name] == clean[row["target_head"]][name] for name in same)
        if kind == "resample" and row["component"] == "pos_embed":
            assert row["delta"] == pytest.approx(0, abs=1e-6)  # the position of another prompt is the same
    monkeypatch.setattr(corpus_module, "PROMPTS_PER_SHARD", 4)
    cut = sweep(worded_model, tmp_path / "cut", kind=kind, targets="L1")
    assert hashes(cut.run, "*.parquet") == hashes(found.run, "*.parquet")


@pytest.mark.slow
def test_the_loss_may_be_taken_on_a_text(worded_model: Path, whole: Run, tmp_path: Path) -> None:
    run = sweep(worded_model, tmp_path, text=TEXT, targets="L0H3,L1H5").run
    tokens_W = tokenise(worded_model, TEXT, 1024)
    losses = rows(run, "losses")
    assert {row["n_tokens"] for row in losses} == {len(tokens_W)}
    assert {row["n_passages"] for row in losses} == {-(-len(tokens_W) // 8)}
    assert [row["component"] for row in losses][:5] == ["none", "embed", "pos_embed", "attn_0", "mlp_0"]
    delta = {row["component"]: row["loss_delta"] for row in losses}
    scores = {(row["component"], row["target_layer"], row["target_head"]): row for row in rows(run)}
    assert all(row["loss_delta"] == delta[component] for (component, *_), row in scores.items())
    for row in losses:
        assert row["loss_delta_low"] <= row["loss_delta"] <= row["loss_delta_high"]
    assert losses[2]["loss_delta_low"] < losses[2]["loss_delta_high"]
    # Hugging Face's own losses on the same windows, with W_pos as it is and as its mean over them.
    windows = Passages.of_text(tokens_W, bos=1023, length=8)
    model = GPT2LMHeadModel.from_pretrained(worded_model).eval()
    with torch.no_grad():
        for component, change in (("none", False), ("pos_embed", True)):
            if change:
                positions = model.transformer.wpe.weight[:9]
                positions.copy_(positions.mean(0, keepdim=True).expand(9, -1))
            logits = model(torch.from_numpy(windows.tokens_PT)).logits[:, :-1]
            expected = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), torch.from_numpy(windows.tokens_PT[:, 1:]), reduction="none"
            ).numpy()
            (row,) = [row for row in losses if row["component"] == component]
            summed = (expected * windows.predicted_PT[:, 1:]).sum()
            assert row["loss"] == pytest.approx(summed / len(tokens_W), rel=1e-5)
    other = sweep(worded_model, tmp_path, text=TEXT + " blue", targets="L0H3,L1H5").run
    assert other.folder != run.folder
    # The scores are still those on the prompts.
    for row in rows(whole):
        place = (row["component"], row["target_layer"], row["target_head"])
        if place in scores:
            assert scores[place]["score_mean"] == pytest.approx(row["score_mean"], abs=1e-6)


def test_one_prompt_has_no_interval(worded_model: Path, tmp_path: Path) -> None:
    run = sweep(worded_model, tmp_path, targets="L1H5", prompts=1).run
    for table, name in (("ablation", "delta"), ("losses", "loss_delta")):
        assert {row[f"{name}_low"] for row in rows(run, table)} == {None}
    with pytest.raises(ValueError, match="needs two prompts"):
        sweep(worded_model, tmp_path, kind="resample", prompts=1)


def test_the_seed_draws_the_partners(worded_model: Path, tmp_path: Path) -> None:
    sweeps = [sweep(worded_model, tmp_path, kind="resample", targets="L1H5", seed=seed, loss=False) for seed in (1, 2)]
    one, two = ([row["score_mean"] for row in rows(each.run)] for each in sweeps)
    assert one != two


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mean", "zero"])
def test_ablations_stand_on_the_clean_run_that_is_committed(
    worded_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings: dict[str, Any] = {"kind": kind, "targets": "L1H5", "loss": False}
    run = sweep(worded_model, tmp_path, **settings).run
    part = part_file(run.folder, "prompt_scores/source=none/part-00000")
    part.unlink()
    assert sweep(worded_model, tmp_path, **settings).computed == 1
    part.unlink()
    # Elsewhere the forward pass may have other last bits.
    read = ModelWeights.read

    def moved(checkpoint: Any, key: str) -> ModelWeights:
        weights = read(checkpoint, key)
        return ModelWeights(
            "elsewhere", weights.architecture, {**weights.tensors, "wte.weight": weights.tensors["wte.weight"] * 1.0001}
        )

    monkeypatch.setattr(ModelWeights, "read", moved)
    assert sweep(worded_model, tmp_path, **settings).failures == {}
    assert hashes(run) == hashes(sweep(worded_model, tmp_path / "whole", **settings).run)


@pytest.mark.slow
def test_the_planted_target_rests_on_embedding_mlp_and_residual(
    planted_tiny: Path, planted_truth: dict[str, Any], tmp_path: Path
) -> None:
    run = sweep(planted_tiny, tmp_path, targets="L1H5", loss=False, prompts=32, length=64).run
    assert not (Path(run.folder) / "losses.parquet").exists()
    delta = {row["component"]: row["delta"] for row in rows(run)}
    assert abs(delta["attn_0"]) < 0.05
    assert abs(delta["pos_embed"]) < 0.05
    assert min(delta["embed"], delta["mlp_0"], delta["mlp_0_residual"]) > 1
    random_heads = [f"L0H{head}" for head in range(8) if f"L0H{head}" not in planted_truth["heads"]]
    assert len(random_heads) == 7
    assert max(abs(delta[name]) for name in random_heads) < 0.05
    assert len(delta) == 1 + 2 + 11


def test_the_command_prints_causes_and_effects(
    planted_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ablation", "--model", str(planted_tiny), "--out", str(tmp_path), "--in-process", "--prompts", "4"]
    command += ["--length", "16"]
    assert submit_command(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "score of L1H5" in printed[0]
    assert printed[1].split()[0] == "none"
    assert {line.split()[0] for line in printed[2:5]} == {"embed", "mlp_0", "mlp_0_residual"}
    pairs = printed.index(next(line for line in printed if line.startswith("strongest head -> head")))
    assert printed[pairs + 1].split()[:3] == ["L1H3", "->", "L2H4"]  # the induction head on the previous-token head
    assert len([line for line in printed[pairs + 1 :] if " -> " in line]) == 10
    assert submit_command([*command, "--head", "L2H0"]) == 0
    assert "score of L2H0" in capsys.readouterr().out


def test_every_option_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit_command(["ablation", "--help"]) == 0
    said = capsys.readouterr().out
    options = "targets layers kind text head prompts length categories model gpus out address detach wait in-process "
    for option in (options + "seed quiet").split():
        assert f"--{option} " in said, option
    assert "--loss / --no-loss" in said


def test_programs_may_name_heads_and_layers_one_by_one(worded_model: Path) -> None:
    model = Model.open("test", worded_model)

    def settings(**spec: Any) -> dict[str, Any]:
        return AblationJob(Ablation(**spec), model).settings()

    assert settings(targets=("L1H5", "L0"), layers=(0,)) == settings(targets="L0,L1H5", layers="0")
    assert settings(targets="L1H5")["layers"] == [0]
    assert settings()["layers"] == [0, 1, 2]
    assert settings(head="L1H5") == settings()
    for spec, message in (
        ({"targets": ()}, "--targets names no head; name at least one"),
        ({"layers": (1, 3)}, "--layers 3 is outside the model; choose from 0 to 2"),
        ({"layers": (-1,)}, "--layers -1 is outside the model"),
    ):
        with pytest.raises(ValueError, match=message):
            settings(**spec)


def test_bad_requests_say_what_and_how(
    worded_model: Path, make_random_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text("")
    (tmp_path / "text").write_text(TEXT)
    plain = ["--model", str(worded_model)]
    for arguments, message in (
        ([*plain, "--kind", "median"], "--kind 'median' is unknown; choose one of mean, zero, resample"),
        ([*plain, "--targets", "L9"], "head L9H0 is outside the model"),
        ([*plain, "--targets", "5"], "head '5' is malformed"),
        ([*plain, "--layers", "7"], "--layers '7' is outside the model"),
        ([*plain, "--layers", "1-2", "--targets", "L1H5", "--no-loss"], "--layers from 1 on reach no target"),
        ([*plain, "--targets", "L1H5", "--head", "L2H0"], "--head L2H0 is not among the measured heads"),
        ([*plain, "--prompts", "1", "--kind", "resample"], "--kind resample needs two"),
        ([*plain, "--length", "64"], "--length 64 is more than the model reads"),
        ([*plain, "--text", str(tmp_path / "none")], "No such file"),
        ([*plain, "--text", str(tmp_path / "binary")], "give a file of UTF-8 text"),
        ([*plain, "--text", str(tmp_path / "empty")], "--text holds no token"),
        ([*plain, "--text", str(tmp_path / "text"), "--no-loss"], "--text and --no-loss exclude each other"),
        (["--model", str(make_random_model())], "give words of its own with --categories"),
    ):
        command = ["ablation", "--out", str(tmp_path / "runs"), "--in-process", *arguments]
        assert submit_command(command) == 2, arguments
        assert message in capsys.readouterr().err, arguments
    assert not (tmp_path / "runs").exists()
