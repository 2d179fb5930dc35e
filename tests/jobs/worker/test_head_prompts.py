"""What a head scan measures on prompts: every column against Hugging Face's own forward pass, and the labels."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import reference
import torch
from support.part_files import part_file
from transformers import GPT2LMHeadModel

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.head_scan.job import HeadScanJob
from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import write_planted
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as submit_command
from qkatlas.outputs.schemas import head_scan as schemas_heads
from qkatlas.pipeline.circuit.states import TokenStates, attention_means
from qkatlas.pipeline.planted.checkpoint import PlantedDesign

pytestmark = pytest.mark.slow


def make_job(folder: Path, heads: str | None = None, **spec: Any) -> HeadScanJob:
    return HeadScanJob(HeadScan(heads=heads, **spec), Model.open("test", folder))


def scan(job: HeadScanJob, out: Path) -> Path:
    return Path(submit(job, out=out, executor=InProcessExecutor(), gpus=0).run.folder)


@pytest.fixture(scope="module")
def worded_scan(worded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[HeadScanJob, Path]:
    job = make_job(worded_model, "L0H2,L2H5,L2H7", prompts=35, length=12, states="bos", seed=3)
    return job, scan(job, tmp_path_factory.mktemp("scan"))


def row_of(folder: Path, layer: int, head: int) -> dict[str, Any]:
    rows = pq.read_table(folder / "heads.parquet").to_pylist()
    (row,) = [row for row in rows if (row["layer"], row["head"]) == (layer, head)]
    return row


def hugging_face(folder: Path, tokens_PT: np.ndarray) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Patterns and hidden states of some prompts, layer by layer."""
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        out = model(torch.from_numpy(tokens_PT), output_attentions=True, output_hidden_states=True)
    return out.attentions, out.hidden_states


@pytest.mark.parametrize(("layer", "head"), [(0, 2), (2, 7)])
def test_semantic_scores_are_means_over_prompts(
    worded_model: Path, worded_scan: tuple[HeadScanJob, Path], layer: int, head: int
) -> None:
    job, folder = worded_scan
    prompts = job.drawn.prompts
    assert prompts is not None
    pattern_PTT = hugging_face(worded_model, prompts.tokens_PT)[0][layer][:, head].double().numpy()
    scores = []
    for tokens, categories, pattern_TT in zip(prompts.tokens_PT, prompts.categories_PT, pattern_PTT, strict=True):
        surprisals = []
        for q in range(1, 13):
            keys = [k for k in range(1, q) if categories[k] == categories[q] and tokens[k] != tokens[q]] or [0]
            surprisals.append(-math.log(max(pattern_TT[q, keys].sum(), 1e-38)))
        scores.append(np.mean(surprisals))
    stored = pq.read_table(folder / "prompt_scores").to_pandas()
    assert len(stored) == 35 * 3
    one = stored[(stored.layer == layer) & (stored["head"] == head)].sort_values("prompt")
    np.testing.assert_allclose(one.semantic_category_score, scores, rtol=1e-3, atol=1e-3)
    row = row_of(folder, layer, head)
    assert row["semantic_category_score_mean"] == pytest.approx(np.mean(scores), rel=1e-3)
    assert row["semantic_category_score_std"] == pytest.approx(np.std(scores), rel=1e-2)
    assert pq.read_schema(part_file(folder, "prompt_scores/part-00001")).equals(
        schemas_heads.PROMPT_SCORES, check_metadata=True
    )


def test_fidelity_is_the_correlation_of_predicted_and_real_scores(
    worded_model: Path, worded_scan: tuple[HeadScanJob, Path], reference_scores: Callable[..., np.ndarray]
) -> None:
    job, folder = worded_scan
    prompts = job.drawn.prompts
    assert prompts is not None
    patterns, hidden = hugging_face(worded_model, prompts.tokens_PT)
    real_PTT = np.stack([own_scores(worded_model, x_TD) for x_TD in hidden[2].double().numpy()])
    # They are the model's own: their softmax is its pattern.
    pattern_PTT = np.exp(real_PTT - real_PTT.max(2, keepdims=True)) * np.tri(13)
    pattern_PTT /= pattern_PTT.sum(2, keepdims=True)
    np.testing.assert_allclose(pattern_PTT, patterns[2][:, 7].numpy(), atol=1e-4)

    query, key = np.tril_indices(13)

    def expected(scores_VV: np.ndarray) -> float:
        predicted_PTT = scores_VV[prompts.tokens_PT[:, :, None], prompts.tokens_PT[:, None, :]]
        return float(np.corrcoef(predicted_PTT[:, query, key].ravel(), real_PTT[:, query, key].ravel())[0, 1])

    row = row_of(folder, 2, 7)
    assert row["fidelity_mlp"] == pytest.approx(expected(reference_scores(worded_model, 2, 7)), abs=1e-3)
    after_bos_V2 = np.stack([np.full(1024, 1023), np.arange(1024)], axis=1)
    after_bos_VD = hugging_face(worded_model, after_bos_V2)[1][2][:, 1].double().numpy()
    assert row["fidelity_bos"] == pytest.approx(expected(own_scores(worded_model, after_bos_VD)), abs=1e-3)
    assert row["fidelity"] == row["fidelity_bos"]
    means_LD = attention_means(job.model.weights(), range(1023), 2, threads=1)
    states = TokenStates(job.model.checkpoint, "mean", attention_means_LD=means_LD, threads=1)
    mean_VD = states.advance_to(2).astype(np.float64)
    assert row["fidelity_mean"] == pytest.approx(expected(own_scores(worded_model, mean_VD)), abs=1e-3)
    assert len({row["fidelity_mlp"], row["fidelity_mean"], row["fidelity_bos"]}) == 3


def test_the_prompts_are_kept_beside_their_scores(worded_scan: tuple[HeadScanJob, Path]) -> None:
    job, folder = worded_scan
    prompts = job.drawn.prompts
    assert prompts is not None
    table = pq.read_table(folder / "prompts.parquet")
    assert table["token_ids"].to_pylist() == prompts.tokens_PT.tolist()
    assert table["categories"].to_pylist() == prompts.categories_PT.tolist()


def own_scores(folder: Path, x_TD: np.ndarray) -> np.ndarray:
    """Scores of L2H7 from the residual stream of one prompt, in NumPy float64."""
    return reference.head_scores(reference.tensors_of(folder), x_TD, 2, 7, d_head=8)


def test_behaviours_are_mean_attention_in_hugging_faces_patterns(
    worded_model: Path, worded_scan: tuple[HeadScanJob, Path]
) -> None:
    job, folder = worded_scan
    row = row_of(folder, 2, 5)
    for kind in job.prompts.sequences:
        pattern_PTT = hugging_face(worded_model, kind.tokens_PT)[0][2][:, 5].numpy()
        for name, places_Q3 in kind.places.items():
            expected = np.mean([pattern_PTT[p, q, k] for p, q, k in places_Q3.tolist()])
            assert row[name] == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    "design",
    [
        {"seed": 4},
        {"seed": 1, "noise": 0.15, "skew": 0.5, "head": "L2H3"},
        {"seed": 2, "skew": 0.5, "head": "L1H2"},
    ],
)
def test_planted_heads_get_their_own_labels_and_no_other_head_gets_one(tmp_path: Path, design: dict[str, Any]) -> None:
    folder = tmp_path / "planted"
    write_planted(PlantedDesign(**{"size": "tiny", **design}), folder)
    truth = json.loads((folder / "truth.json").read_text())
    rows = pq.read_table(scan(make_job(folder, prompts=32), tmp_path) / "heads.parquet").to_pylist()
    found = {f"L{row['layer']}H{row['head']}": row for row in rows}
    labels = {head: row["label"] for head, row in found.items() if row["label"] != "none"}
    assert labels == truth["heads"]
    lowest = min(found, key=lambda head: found[head]["semantic_category_score_mean"])
    assert lowest == truth["target"]
    assert found[lowest]["semantic_category_score_mean"] < 0.7
    assert found[lowest]["fidelity"] > 0.98


def test_what_of_the_prompts_changes_results_changes_the_run(worded_model: Path) -> None:
    def settings(**spec: Any) -> dict[str, Any]:
        return make_job(worded_model, "L0H2", **spec).settings()

    plain = settings()
    assert plain["length"] == 63, "64 words, but the model reads 63 after BOS"
    assert settings(length=63) == plain
    words = (("red", "blue"), ("dog", "Monday", "Friday"))
    own = settings(categories=words)
    assert own["category_tokens_sha256"] != plain["category_tokens_sha256"]
    assert (
        settings(categories=(*words, ("nothing-like-it",)))["category_tokens_sha256"] == own["category_tokens_sha256"]
    )
    for other in ({"prompts": 5}, {"length": 9}, {"seed": 2}, {"states": "mean"}):
        assert settings(**other) != plain
    json.dumps(plain)


def test_models_without_words_or_room_have_no_such_columns(
    make_random_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = scan(make_job(make_random_model(4, n_positions=8), "L1H0"), tmp_path)
    row = row_of(folder, 1, 0)
    for name in ("semantic_category_score_mean", "fidelity", "fidelity_mlp", "induction_score", "bos_share"):
        assert row[name] is None
    assert row["label"] == "none"
    assert not (folder / "prompt_scores").exists()


def test_a_model_of_one_position_has_no_states_after_bos(
    make_random_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_random_model(4, n_positions=1)
    command = ["head-scan", "--model", str(folder), "--out", str(tmp_path / "runs"), "--in-process", "--heads", "L2H0"]
    for states in ("mean", "bos"):
        assert submit_command([*command, "--states", states]) == 2
        assert f"--states {states} needs" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert submit_command(command) == 0


def test_bad_requests_are_told_in_one_line(
    worded_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_bos, column = tmp_path / "without-bos", tmp_path / "column.csv"
    column.write_text("red\nblue\n")
    shutil.copytree(worded_model, without_bos)
    config = json.loads((without_bos / "config.json").read_text())
    (without_bos / "config.json").write_text(json.dumps({**config, "bos_token_id": None}))
    for arguments, said in (
        (["--length", "64"], "--length 64 is more than the model reads after BOS; choose at most 63"),
        (["--prompts", "0"], "--prompts 0 is impossible"),
        (["--length", "0"], "--length 0 is impossible"),
        (["--seed", "-1"], "--seed -1 is negative"),
        (
            ["--states", "none"],
            "--states 'none' is unknown; choose one of auto, mlp, mean, bos, prefix, context, embedding",
        ),
        (["--categories", str(tmp_path / "none.csv")], "none.csv cannot be read (No such file or directory)"),
        (["--categories", str(column)], "--categories keeps no category with two words"),
        (["--prompts", "99999999999999999999"], "choose from 1 to 100000"),
        (["--model", str(without_bos)], "have no BOS"),
    ):
        command = ["head-scan", "--model", str(worded_model), "--out", str(tmp_path / "runs"), "--in-process"]
        assert submit_command([*command, *arguments]) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("submit: error") == 1
    assert not (tmp_path / "runs").exists()


def test_dropped_words_are_told(worded_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tmp_path / "words.csv"
    words.write_text("red,blue,nothing-like-it\nMonday,Friday\n")
    command = ["head-scan", "--model", str(worded_model), "--out", str(tmp_path), "--in-process", "--heads", "L0H1"]
    assert submit_command([*command, "--categories", str(words), "--prompts", "2", "--length", "5"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "prompts use 4 words of 2 categories; dropped 1 that are not one token" in said
    assert said.count("nothing-like-it") == 1
