"""Every job on a model with rotary positions: its tables against NumPy in float64, on transformers' own weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.checkpoints import reference
from support.families import make

from qkatlas.jobs.main import run as submit
from qkatlas.jobs.worker import prepared as prepared_module
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run

pytestmark = pytest.mark.slow

V, N, H = 1024, 6, 8
OFFSET, HEAD, LAYER = 3, 4, 1
Submit = Callable[..., Run]


@pytest.fixture(scope="module")
def worded(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Random checkpoints of a family whose tokens are words."""
    made: dict[str, Path] = {}

    def worded_model(variant: str) -> Path:
        if variant not in made:
            folder = make(variant, tmp_path_factory.mktemp(variant), vocab_size=V, bos_token_id=1023, eos_token_id=1023)
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(planted_tiny / file, folder / file)
            made[variant] = folder
        return made[variant]

    return worded_model


@pytest.fixture
def runs(tmp_path: Path) -> Submit:
    def finished(job: str, *arguments: str, out: str = "runs") -> Run:
        before = set((tmp_path / out).glob("*"))
        assert submit([job, *arguments, "--in-process", "--out", str(tmp_path / out), "--quiet"]) == 0
        (folder,) = set((tmp_path / out).glob("*")) - before
        return Run(folder)

    return finished


def frame(run: Run, table: str) -> pd.DataFrame:
    return read_whole(run, table).to_pandas()


class Numbers:
    """Queries, keys and states of one head in float64."""

    def __init__(self, folder: Path, *, offset: int = OFFSET) -> None:
        model = reference(folder).model
        x_VD = model.embed_tokens.weight.detach().numpy()
        for below in range(LAYER):
            block = model.layers[below]
            normed = self._rms(x_VD, block.post_attention_layernorm.weight)
            gate, up, down = (
                getattr(block.mlp, name).weight.detach().numpy().T for name in ("gate_proj", "up_proj", "down_proj")
            )
            gated = normed @ gate
            x_VD = x_VD + (gated / (1 + np.exp(-gated)) * (normed @ up)) @ down
        block = model.layers[LAYER]
        self.states_VD = x_VD
        self.gain_D = block.input_layernorm.weight.detach().numpy()
        self.normalised_VD = x_VD / np.sqrt((x_VD**2).mean(1, keepdims=True) + 1e-6)
        w_q, w_k = (getattr(block.self_attn, name).weight.detach().numpy() for name in ("q_proj", "k_proj"))
        group = len(w_q) // len(w_k)
        self.w_q_DH = w_q[HEAD * H : (HEAD + 1) * H].T
        self.w_k_DH = w_k[HEAD // group * H : (HEAD // group + 1) * H].T
        angle_J = offset * 10000.0 ** (-np.arange(H // 2) / (H // 2))
        cos, sin = np.diag(np.cos(angle_J)), np.diag(np.sin(angle_J))
        self.turn_HH = np.block([[cos, sin], [-sin, cos]])  # of rows
        self.scores_VV = self.queries_VH @ self.keys_VH.T / np.sqrt(H)

    @staticmethod
    def _rms(x_VD: np.ndarray, weight: Any) -> np.ndarray:
        normed: np.ndarray = x_VD / np.sqrt((x_VD**2).mean(1, keepdims=True) + 1e-6) * weight.detach().numpy()
        return normed

    @property
    def queries_VH(self) -> np.ndarray:
        return (self.normalised_VD * self.gain_D) @ self.w_q_DH @ self.turn_HH

    @property
    def keys_VH(self) -> np.ndarray:
        return (self.normalised_VD * self.gain_D) @ self.w_k_DH

    @property
    def form_DD(self) -> np.ndarray:
        return self.gain_D[:, None] * (self.w_q_DH @ self.turn_HH @ self.w_k_DH.T) * self.gain_D


def scan(runs: Submit, folder: Path) -> Run:
    asked = ["--heads", f"L{LAYER}H{HEAD}", "--offset", str(OFFSET), "--prompts", "8", "--length", "16"]
    return runs("head-scan", "--model", str(folder), *asked)


def test_a_head_scan_equals_numpy(worded: Callable[[str], Path], runs: Submit) -> None:
    folder = worded("llama-groups-of-3")
    run, expected = scan(runs, folder), Numbers(folder)
    (row,) = frame(run, "heads").to_dict("records")
    own = frame(run, "self")
    own_V = np.diag(expected.scores_VV)
    np.testing.assert_allclose(own["self_score"], own_V, atol=1e-4)
    assert (own["self_rank"] == 1 + (expected.scores_VV > own_V[:, None]).sum(1)).mean() > 0.999
    found, wanted = np.stack(frame(run, "topk")["scores"]), -np.sort(-expected.scores_VV, axis=1)[:, :10]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    # Under RMSNorm kin are the nearest without centring.
    unit_VD = expected.states_VD / np.linalg.norm(expected.states_VD, axis=1, keepdims=True)
    cosines_VV = unit_VD @ unit_VD.T
    np.fill_diagonal(cosines_VV, -2)
    np.testing.assert_allclose(np.stack(frame(run, "kin")["cosines"]), -np.sort(-cosines_VV)[:, :16], atol=1e-5)
    form = expected.form_DD
    eigenvalues = np.linalg.eigvalsh((form + form.T) / 2)
    strongest = np.sort(eigenvalues[np.argsort(-np.abs(eigenvalues))[: 2 * H]])[::-1]
    np.testing.assert_allclose(frame(run, "spectrum")["eigenvalue"], strongest, rtol=1e-6, atol=1e-9)
    assert row["positive_self_energy_null_std"] > 0
    best, counts = np.unique(expected.scores_VV.argmax(1), return_counts=True)
    assert row["hub_share"] == pytest.approx(counts.max() / V, abs=0.002)
    assert row["hub_id"] == best[counts.argmax()]


def test_keys_are_prepared_once_for_the_heads_that_share_them(
    worded: Callable[[str], Path], runs: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[int] = []
    real = prepared_module.PreparedKeys

    def counted(keys_VH: np.ndarray, **more: Any) -> Any:
        prepared.append(keys_VH.shape[1])
        return real(keys_VH, **more)

    monkeypatch.setattr(prepared_module, "PreparedKeys", counted)
    runs("head-scan", "--model", str(worded("llama-groups-of-3")), "--layers", "1", "--prompts", "2", "--length", "8")
    assert [width for width in prepared if width == H] == [H, H]  # the others are unit states, for kin


def test_prompts_are_those_of_transformers(worded: Callable[[str], Path], runs: Submit) -> None:
    """Semantic scores, and fidelity within rows at the true offsets, from transformers' attention."""
    import torch

    folder = worded("llama-groups-of-3")
    run, expected = scan(runs, folder), Numbers(folder)
    prompts = frame(run, "prompts")
    tokens_PT = np.stack(prompts["token_ids"])
    with torch.no_grad():
        attentions = reference(folder)(torch.from_numpy(tokens_PT), output_attentions=True).attentions
    real_PTT = attentions[LAYER][:, HEAD].numpy()
    categories_PT = np.stack(prompts["categories"])
    scores, x, y, distances = [], [], [], []
    angle_J = 10000.0 ** (-np.arange(H // 2) / (H // 2))
    for tokens_T, categories_T, real_TT in zip(tokens_PT, categories_PT, real_PTT, strict=True):
        surprisals = []
        for query in range(1, len(tokens_T)):
            expects = [
                key
                for key in range(1, query)
                if categories_T[key] == categories_T[query] and tokens_T[key] != tokens_T[query]
            ]
            surprisals.append(-np.log(real_TT[query, expects or [0]].sum()))
            keys = np.arange(1, query + 1)
            if len(keys) < 2:
                continue
            turn_KJ = (query - keys)[:, None] * angle_J
            q_H = (expected.normalised_VD[tokens_T[query]] * expected.gain_D) @ expected.w_q_DH
            first, second = q_H[: H // 2], q_H[H // 2 :]
            turned_KH = np.concatenate(
                [
                    first * np.cos(turn_KJ) - second * np.sin(turn_KJ),
                    second * np.cos(turn_KJ) + first * np.sin(turn_KJ),
                ],
                axis=1,
            )
            guess = (turned_KH * expected.keys_VH[tokens_T[keys]]).sum(1) / np.sqrt(H)
            real = np.log(real_TT[query, keys])
            x += list(guess - guess.mean())
            y += list(real - real.mean())
            shares = [np.exp(values) / np.exp(values).sum() for values in (guess, real)]
            distances.append(np.abs(shares[0] - shares[1]).sum() / 2)
        scores.append(np.mean(surprisals))
    (row,) = frame(run, "heads").to_dict("records")
    np.testing.assert_allclose(frame(run, "prompt_scores")["semantic_category_score"], scores, atol=1e-4)
    assert row["row_fidelity_mlp"] == row["row_fidelity"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-5)
    assert row["attention_distance"] == pytest.approx(np.mean(distances), abs=1e-5)
    assert -1 <= row["fidelity_offset_only"] <= 1


def test_the_other_jobs_score_as_full_vocab_does(worded: Callable[[str], Path], runs: Submit) -> None:
    folder = worded("llama-groups-of-3")
    one = ["--model", str(folder), "--head", f"L{LAYER}H{HEAD}", "--offset", str(OFFSET)]
    whole = runs("full-vocab", *one, "--top-k", "10")
    expected = Numbers(folder)
    steered = runs("steering", *one, "--methods", "eigen", "--alpha", "1,0", "--draws", "1")
    for table, column in (("topk", "scores"), ("self", "self_score")):
        found, wanted = (np.stack(frame(run, table)[column]) for run in (steered, whole))
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    eigenvalues, vectors = np.linalg.eigh((expected.form_DD + expected.form_DD.T) / 2)
    lost_DD = (vectors * np.where(eigenvalues < 0, eigenvalues, 0)) @ vectors.T
    flat_VV = expected.scores_VV - expected.normalised_VD @ lost_DD @ expected.normalised_VD.T / np.sqrt(H)
    points = frame(steered, "steering")
    (point,) = points[(points["method"] == "eigen") & (points["alpha"] == 0)].index
    own_V = np.diag(flat_VV)
    assert points["self_rank_mean"][point] == pytest.approx((1 + (flat_VV > own_V[:, None]).sum(1)).mean(), rel=1e-3)
    curve = frame(runs("similarity", *one, "--bins", "20"), "similarity")
    unit_VD = expected.states_VD / np.linalg.norm(expected.states_VD, axis=1, keepdims=True)
    bins_VV = np.clip(((unit_VD @ unit_VD.T + 1) * 10).astype(int), 0, 19)
    difference_VV = expected.scores_VV - np.diag(expected.scores_VV)[:, None]
    for number in range(20):
        here = difference_VV[bins_VV == number]
        assert abs(curve["count"][number] - len(here)) <= 2
        if len(here) > 1000:
            assert curve["mean"][number] == pytest.approx(here.mean(), abs=1e-3)
    runs("communities", str(whole.folder), "--neighbours", "4", "--restarts", "1")


@pytest.mark.parametrize("states", [("context", "--windows", "40", "--draws", "3"), ("prefix", "--prefix", "#5,#9")])
def test_states_in_context_serve_the_other_jobs_as_they_serve_full_vocab(
    worded: Callable[[str], Path], runs: Submit, states: tuple[str, ...]
) -> None:
    one = ["--model", str(worded("llama-groups-of-3")), "--states", *states]
    whole = runs("full-vocab", *one, "--head", f"L{LAYER}H{HEAD}", "--top-k", "10")
    scanned = runs("head-scan", *one, "--heads", f"L{LAYER}H{HEAD}", "--prompts", "4", "--length", "12")
    for table, column in (("topk", "key_ids"), ("topk", "scores"), ("self", "self_score"), ("self", "self_rank")):
        found, wanted = (np.stack(frame(run, table)[column]) for run in (scanned, whole))
        np.testing.assert_array_equal(found, wanted)
    (row,) = frame(scanned, "heads").to_dict("records")
    assert row["row_fidelity"] not in (row["row_fidelity_mlp"], row["row_fidelity_mean"], row["row_fidelity_bos"])
    curve = frame(runs("similarity", *one, "--head", f"L{LAYER}H{HEAD}", "--bins", "8"), "similarity")
    assert curve["count"].sum() == V * V


def test_an_ablation_has_the_components_that_there_are(worded: Callable[[str], Path], runs: Submit) -> None:
    for variant, absent in (("llama-wide-heads", {"pos_embed"}), ("neox", {"pos_embed", "mlp_0_residual"})):
        given = ["--model", str(worded(variant)), "--targets", "L1", "--prompts", "4", "--length", "12"]
        run = runs("ablation", *given)
        named = set(frame(run, "losses")["component"])
        assert {"none", "embed", "attn_0", "mlp_0", "L0H5"} <= named
        assert not absent & named
        assert frame(run, "ablation")["delta"].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("variant", "job", "more", "said"),
    [
        ("qwen3", "steering", (), "q_norm, k_norm"),
        ("qwen3", "head-scan", ("--scores", "bilinear"), "q_norm, k_norm"),
        ("qwen3", "similarity", ("--scores", "bilinear"), "q_norm, k_norm"),
        ("qwen3", "steering", ("--in-model",), "q_norm, k_norm"),
        ("gemma-2", "head-scan", (), "--scores bilinear"),
        ("gemma-2", "similarity", (), "--scores bilinear"),
        ("gemma-2", "steering", (), "--scores bilinear"),
        ("llama", "similarity", ("--offset", "64"), "from 0 to 63"),
        ("llama", "head-scan", ("--offset", "mean:2-64"), "from 0 to 63"),
        ("llama", "steering", ("--offset", "x"), "mean:1-16"),
    ],
)
def test_what_a_family_has_not_is_refused_by_name(
    worded: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    variant: str,
    job: str,
    more: tuple[str, ...],
    said: str,
) -> None:
    assert submit([job, "--model", str(worded(variant)), *more, "--in-process", "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error.splitlines()[-1]
    assert not list((tmp_path / "runs").glob("*"))


def test_a_head_is_steered_inside_the_model_at_every_distance(worded: Callable[[str], Path], runs: Submit) -> None:
    """On states behind a prefix, which the pass itself needs not; the offset of the tables is no part of it either."""
    asked = ["--model", str(worded("llama-groups-of-3")), "--head", f"L{LAYER}H{HEAD}", "--methods", "eigen"]
    asked += ["--alpha", "1,-1", "--controls", "1", "--in-model", "--prompts", "3", "--length", "12"]
    inside = [
        frame(runs("steering", *asked, *more, out=more[-1]), "in_model")
        for more in (("--offset", "1"), ("--offset", "5"), ("--states", "prefix", "--prefix", "#1023"))
    ]
    columns = ["identical_mass", "category_mass", "bos_mass", "loss"]
    plain, same, flipped, control = inside[0][columns].to_numpy()
    np.testing.assert_allclose(same, plain, rtol=1e-12)
    assert np.abs(flipped - plain).max() > 1e-3
    assert np.abs(control - plain).max() > 1e-4
    for other in inside[1:]:
        np.testing.assert_allclose(other[columns], inside[0][columns], rtol=1e-6)


def test_heads_without_a_form_have_no_spectrum_and_everything_else(
    worded: Callable[[str], Path], runs: Submit, capsys: pytest.CaptureFixture[str]
) -> None:
    run = scan(runs, worded("qwen3"))
    (row,) = frame(run, "heads").to_dict("records")
    assert np.isnan(row["norm"])
    assert np.isnan(row["negative_self_energy"])
    assert row["self_rank_mean"] > 1
    assert len(frame(run, "spectrum")) == 0


def test_an_offset_is_part_of_a_runs_identity(worded: Callable[[str], Path], runs: Submit) -> None:
    given = ["--model", str(worded("llama")), "--bins", "4", "--head", "L0H1"]
    names = {runs("similarity", *given, *more).folder for more in ((), ("--offset", "2"), ("--offset", "mean:1-4"))}
    assert len(names) == 3
