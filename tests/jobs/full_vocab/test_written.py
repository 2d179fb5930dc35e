"""`full-vocab` of the OV circuit: its tables against NumPy in float64, resumed, and beside those of QK (about 5 s)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from support.interruptions import Stopping
from support.part_files import unstamped

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as submit_command
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.reader import list_matrix, read_whole
from qkatlas.outputs.runs.run import Run

LAYER, HEAD, H = 2, 3, 8


def compute(folder: Path, out: Path, **spec: Any) -> Run:
    job = FullVocabJob(FullVocab(head=f"L{LAYER}H{HEAD}", top_k=6, shards=4, **spec), Model.open("test", folder))
    return submit(job, out=out, executor=InProcessExecutor(), gpus=0).run


def brute_force(folder: Path, unembed: str) -> reference.Array:
    """OV of the head, [V, V], from the raw tensors."""
    weights = reference.tensors_of(folder)
    own = slice(HEAD * H, (HEAD + 1) * H)
    w_v = np.split(weights[f"h.{LAYER}.attn.c_attn.weight"], 3, axis=1)[2][:, own]
    b_v = np.split(weights[f"h.{LAYER}.attn.c_attn.bias"], 3)[2][own]
    states_VD = reference.mlp_states(weights, LAYER).astype(np.float32).astype(np.float64)
    write_VD = (reference.layer_norm(states_VD, weights, f"h.{LAYER}.ln_1") @ w_v + b_v) @ weights[
        f"h.{LAYER}.attn.c_proj.weight"
    ][own]
    unembedding_VD = weights["wte.weight"]
    if unembed == "raw":
        return np.asarray(write_VD @ unembedding_VD.T)
    write_VD = (write_VD - write_VD.mean(axis=1, keepdims=True)) * weights["ln_f.weight"]
    return np.asarray(write_VD @ (unembedding_VD - unembedding_VD.mean(axis=0)).T)


@pytest.mark.parametrize("unembed", ["folded", "raw"])
def test_tables_equal_brute_force(random_model: Path, tmp_path: Path, unembed: str) -> None:
    run = compute(random_model, tmp_path, circuit="ov", unembed=unembed)
    expected_VV = brute_force(random_model, unembed)
    within = 2e-6 * np.abs(expected_VV).max()
    for name, turned_VV in (("ov_topk", -expected_VV), ("ov_bottomk", expected_VV)):
        table = read_whole(run, name).sort_by("token_id")
        ids_VK, order_VK = list_matrix(table, "key_ids"), np.argsort(turned_VV, axis=1)[:, :6]
        assert (ids_VK == order_VK).mean() > 0.995
        np.testing.assert_allclose(
            list_matrix(table, "scores"), np.take_along_axis(expected_VV, order_VK, 1), atol=within
        )
    own = read_whole(run, "ov_self").sort_by("token_id")
    own_V1 = np.diagonal(expected_VV)[:, None]
    np.testing.assert_allclose(own["self_score"].to_numpy(), own_V1[:, 0], atol=within)
    assert (own["self_rank"].to_numpy() == 1 + (expected_VV > own_V1).sum(axis=1)).mean() > 0.98


def test_both_circuits_have_the_tables_of_each(random_model: Path, tmp_path: Path) -> None:
    runs = {circuit: compute(random_model, tmp_path, circuit=circuit) for circuit in ("qk", "ov", "both")}
    of = {circuit: unstamped(run) for circuit, run in runs.items()}
    assert of["both"] == of["qk"] | of["ov"]
    assert compute(random_model, tmp_path).folder == runs["qk"].folder  # what nobody asked otherwise


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(random_model: Path, tmp_path: Path) -> None:
    whole = compute(random_model, tmp_path / "whole", circuit="both").manifest()
    job = FullVocabJob(
        FullVocab(head=f"L{LAYER}H{HEAD}", top_k=6, shards=4, circuit="both"), Model.open("t", random_model)
    )
    with pytest.raises(KeyboardInterrupt):
        submit(job, out=tmp_path, executor=Stopping(2), gpus=0)
    result = submit(job, out=tmp_path, executor=InProcessExecutor(), gpus=0)
    assert 0 < result.computed < 4
    resumed = result.run.manifest()
    assert whole is not None
    assert resumed is not None
    assert {part.sha256 for part in resumed.parts} == {part.sha256 for part in whole.parts}
    assert soundness.faults(result.run) == []


@pytest.mark.slow
def test_the_command_answers_with_what_is_promoted(
    planted_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["full-vocab", "--model", str(planted_tiny), "--circuit", "ov", "--in-process", "--out", str(tmp_path)]
    assert submit_command(command) == 0
    printed = capsys.readouterr().out
    assert "promotes most" in printed
    assert "ov_self" in printed
    assert submit_command([*command, "--unembed", "sideways"]) == 2
