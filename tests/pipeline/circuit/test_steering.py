"""Every steered form against a dense float64 one made with other routines from the raw weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.circuit.projection import HeadWeights, head_inputs, head_weights
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.circuit.steering import SteerableHead, folded
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys

HEAD = Head(1, 5)


class Dense:
    """The head as D x D and V x V matrices in float64."""

    def __init__(self, folder: Path, form: str, scores_VV: np.ndarray) -> None:
        config = json.loads((folder / "config.json").read_text())
        d_head = config["n_embd"] // config["n_head"]
        self.states_VD = TokenStates(Checkpoint.open(folder), "mlp", threads=1).advance_to(HEAD.layer)
        self.normed_VD = reference.normalised(self.states_VD, config["layer_norm_epsilon"])
        weights = reference.tensors_of(folder)
        self.w_q_DH, self.w_k_DH = reference.bilinear_factors(weights, HEAD.layer, HEAD.index, d_head)
        self.w_DD = self.w_q_DH @ self.w_k_DH.T
        self.scale = 1 / np.sqrt(d_head) if form == "attention" else 1.0
        self.unsteered_VV = scores_VV
        self.d_head = d_head

    def with_change(self, change_DD: np.ndarray) -> np.ndarray:
        return self.unsteered_VV + self.scale * self.normed_VD @ change_DD @ self.normed_VD.T

    def eigen(self, alpha: float, skew: str, which: str) -> np.ndarray:
        sym_DD = (self.w_DD + self.w_DD.T) / 2
        values_D, vectors_DD = np.linalg.eigh(sym_DD)
        order = np.argsort(-np.abs(values_D))[: self.d_head * (2 if which == "all" else 1)]
        values_E, vectors_DE = values_D[order], vectors_DD[:, order]
        steered_E = np.where(values_E < 0, alpha * values_E, values_E)
        if skew == "drop":
            return self.with_change((vectors_DE * steered_E) @ vectors_DE.T - self.w_DD)
        return self.with_change((vectors_DE * (steered_E - values_E)) @ vectors_DE.T)

    def singular(self, rank: int, scale: float) -> np.ndarray:
        left_DD, values_D, right_DD = np.linalg.svd(self.w_DD)
        values_D[:rank] *= scale
        return self.with_change((left_DD * values_D) @ right_DD - self.w_DD)


def scores_of(weights: HeadWeights, states_VD: np.ndarray) -> np.ndarray:
    inputs = head_inputs(weights, states_VD, threads=1)
    return inputs.queries_VH.astype(np.float64) @ inputs.keys_VH.astype(np.float64).T * inputs.scale


@pytest.fixture(scope="module", params=["attention", "bilinear"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def dense(random_model: Path, reference_scores: Callable[..., np.ndarray], form: str) -> Dense:
    return Dense(random_model, form, reference_scores(random_model, 1, 5, form))


@pytest.fixture(scope="module")
def steerable(random_model: Path, dense: Dense, form: str) -> Callable[..., SteerableHead]:
    weights = head_weights(Checkpoint.open(random_model), HEAD, scores=form)
    moment_DD = dense.normed_VD.T @ dense.normed_VD / len(dense.normed_VD)
    return lambda **options: SteerableHead(HEAD, weights, moment_DD, **options)


def assert_same(found_VV: np.ndarray, expected_VV: np.ndarray) -> None:
    np.testing.assert_allclose(found_VV, expected_VV, atol=1e-5 * np.abs(expected_VV).max())


@pytest.mark.slow
@pytest.mark.parametrize("skew", ["keep", "drop"])
@pytest.mark.parametrize("which", ["all", "top"])
@pytest.mark.parametrize("alpha", [1.5, 1.0, 0.3, 0.0, -1.0])
def test_scaled_eigenvalues_equal_a_dense_computation(
    dense: Dense, steerable: Callable[..., SteerableHead], skew: str, which: str, alpha: float
) -> None:
    steered = steerable(skew=skew, eigenvalues=which).at(Point(method="eigen", alpha=alpha))
    assert_same(scores_of(steered.weights, dense.states_VD), dense.eigen(alpha, skew, which))


@pytest.mark.parametrize(("rank", "scale"), [(1, 0.0), (3, 2.0), (8, 0.5), (8, -1.0), (2, 1.0)])
def test_scaled_singular_values_equal_a_dense_computation(
    dense: Dense, steerable: Callable[..., SteerableHead], rank: int, scale: float
) -> None:
    steered = steerable().at(Point(method="singular", rank=rank, scale=scale))
    assert_same(scores_of(steered.weights, dense.states_VD), dense.singular(rank, scale))
    values = np.linalg.svd(dense.w_DD, compute_uv=False)
    assert steered.dose == pytest.approx(abs(scale - 1) * values[:rank].sum())


@pytest.mark.parametrize("move", ["queries", "keys", "both"])
@pytest.mark.parametrize("step", [-0.4, 0.7])
def test_gradient_steps_equal_torch_autograd(
    dense: Dense, steerable: Callable[..., SteerableHead], form: str, random_model: Path, move: str, step: float
) -> None:
    import torch

    normed_VD = torch.from_numpy(dense.normed_VD)
    w_q_DH, w_k_DH = (torch.tensor(w, requires_grad=True) for w in (dense.w_q_DH, dense.w_k_DH))
    ((normed_VD @ w_q_DH) * (normed_VD @ w_k_DH)).sum(1).mean().backward()
    moved = []
    for name, w_DH in (("queries", w_q_DH), ("keys", w_k_DH)):
        assert w_DH.grad is not None
        length = step * w_DH.norm() / w_DH.grad.norm() if move in (name, "both") else 0.0
        moved.append((w_DH + length * w_DH.grad).detach().numpy())
    # Biases act on the moved weights: (N W_Q + b_Q) . (N W_K + b_K), b the folded biases.
    own = head_weights(Checkpoint.open(random_model), HEAD, scores=form)
    b_q_H, b_k_H = np.split(own.shift_D @ own.w_qk_D2H + own.b_qk_2H, 2)
    expected_VV = (dense.normed_VD @ moved[0] + b_q_H) @ (dense.normed_VD @ moved[1] + b_k_H).T * dense.scale
    steered = steerable(move=move).at(Point(method="gradient", step=step))
    assert_same(scores_of(steered.weights, dense.states_VD), expected_VV)
    assert steered.weights.w_qk_D2H.shape == own.w_qk_D2H.shape
    change_DD = moved[0] @ moved[1].T - dense.w_DD
    assert steered.dose == pytest.approx(np.linalg.svd(change_DD, compute_uv=False).sum())
    if move != "both":  # linear in the step; with both, the product of the two changes may outweigh it
        means = [
            np.einsum("vd,de,ve->v", dense.normed_VD, w_DD, dense.normed_VD).mean()
            for w_DD in (dense.w_DD, dense.w_DD + change_DD)
        ]
        assert np.sign(means[1] - means[0]) == np.sign(step)


@pytest.mark.parametrize("skew", ["keep", "drop"])
def test_a_control_has_the_dose_and_changes_other_eigenvalues(
    dense: Dense, steerable: Callable[..., SteerableHead], skew: str
) -> None:
    head = steerable(skew=skew, seed=3)

    def form_of(point: Point) -> np.ndarray:
        w_q, w_k = np.split(folded(head.at(point).weights).w_qk_D2H, 2, axis=1)
        return np.asarray(w_q @ w_k.T)

    before_DD = form_of(Point(method="eigen", alpha=1.0))
    dose = head.at(Point(method="eigen", alpha=0.25)).dose
    own = np.linalg.eigvalsh((dense.w_DD + dense.w_DD.T) / 2)
    assert dose == pytest.approx(0.75 * -own[own < -1e-9].sum())
    seen = set()
    for draw in range(3):
        point = Point(method="control", alpha=0.25, draw=draw)
        assert head.at(point).dose == pytest.approx(dose)
        change_DD = form_of(point) - before_DD
        np.testing.assert_allclose(change_DD, change_DD.T, atol=1e-9)
        values = np.linalg.eigvalsh(change_DD)
        assert np.abs(values).sum() == pytest.approx(dose)
        assert abs(values.sum()) <= np.abs(values).max() * 1.001  # up and down, so that little is left
        seen.add(tuple(np.round(values, 6)))
        mirrored_DD = form_of(Point(method="control", alpha=1.75, draw=draw)) - before_DD
        np.testing.assert_allclose(mirrored_DD, -change_DD, atol=1e-9)
    assert len(seen) == 3


def test_points_that_change_nothing_have_the_heads_own_scores(
    dense: Dense, steerable: Callable[..., SteerableHead], random_model: Path, form: str
) -> None:
    own = head_inputs(head_weights(Checkpoint.open(random_model), HEAD, scores=form), dense.states_VD, threads=1)
    for point in (
        Point(method="unsteered"),
        Point(method="eigen", alpha=1.0),
        Point(method="singular", rank=4, scale=1.0),
        Point(method="gradient", step=0.0),
    ):
        steered = steerable().at(point)
        inputs = head_inputs(steered.weights, dense.states_VD, threads=1)
        np.testing.assert_array_equal(inputs.queries_VH, own.queries_VH)
        np.testing.assert_array_equal(inputs.keys_VH, own.keys_VH)
        assert steered.dose == 0


def test_parts_add_up_and_the_skew_part_has_no_self_score(
    dense: Dense, steerable: Callable[..., SteerableHead]
) -> None:
    head = steerable()
    sym_VV, skew_VV = (scores_of(part, dense.states_VD) for part in (head.symmetric(), head.skew_symmetric()))
    assert_same(sym_VV + skew_VV, dense.unsteered_VV)
    assert_same(skew_VV, -skew_VV.T)
    largest = np.abs(skew_VV).max()
    assert np.abs(np.diag(skew_VV)).max() <= 1e-6 * largest
    inputs = head_inputs(head.skew_symmetric(), dense.states_VD, threads=1)
    scored = score_rows(
        inputs.queries_VH, PreparedKeys(inputs.keys_VH), row_ids_R=np.arange(len(skew_VV)), k=1, scale=inputs.scale
    )
    assert np.abs(scored.self_score_R).max() <= 1e-6 * largest


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    d_model=st.integers(2, 12),
    d_head=st.integers(1, 6),
    alpha=st.floats(-4, 4),
    skew=st.sampled_from(["keep", "drop"]),
    rank_deficient=st.booleans(),
)
def test_any_head_at_any_alpha(
    seed: int, d_model: int, d_head: int, alpha: float, skew: str, rank_deficient: bool
) -> None:
    """Also where 2H exceeds D, and where the form has fewer eigenvalues than 2H."""
    rng = np.random.default_rng(seed)
    w_qk_D2H = rng.standard_normal((d_model, 2 * d_head))
    if rank_deficient:
        w_qk_D2H[:, d_head:] = -w_qk_D2H[:, :d_head]  # symmetric and negative
    weights = HeadWeights(
        gain_D=rng.standard_normal(d_model),
        shift_D=rng.standard_normal(d_model),
        w_qk_D2H=w_qk_D2H,
        b_qk_2H=rng.standard_normal(2 * d_head),
        eps=1e-5,
        scale=0.5,
    )
    states_VD = rng.standard_normal((9, d_model)).astype(np.float32)
    head = SteerableHead(Head(0, 0), weights, np.eye(d_model), skew=skew)
    found_VV = scores_of(head.at(Point(method="eigen", alpha=alpha)).weights, states_VD)
    x_VD = states_VD.astype(np.float64)
    normed_VD = (x_VD - x_VD.mean(1, keepdims=True)) / np.sqrt(x_VD.var(1, keepdims=True) + 1e-5)
    w_q, w_k = np.split(weights.gain_D[:, None] * w_qk_D2H, 2, axis=1)
    b_q, b_k = np.split(weights.shift_D @ w_qk_D2H + weights.b_qk_2H, 2)
    w_DD = w_q @ w_k.T
    values, vectors = np.linalg.eigh((w_DD + w_DD.T) / 2)
    steered_DD = (vectors * np.where(values < 0, alpha * values, values)) @ vectors.T
    if skew == "keep":
        steered_DD += (w_DD - w_DD.T) / 2
    bias_VV = (normed_VD @ w_q @ b_k)[:, None] + (normed_VD @ w_k @ b_q)[None, :] + b_q @ b_k
    expected_VV = 0.5 * (normed_VD @ steered_DD @ normed_VD.T + bias_VV)
    size = np.abs(normed_VD).max() ** 2 * max(np.abs(w_qk_D2H).max(), 1) ** 2 * d_head * d_model
    np.testing.assert_allclose(found_VV, expected_VV, atol=1e-5 * max(size, np.abs(expected_VV).max()))


def test_a_head_of_zeros_can_be_steered() -> None:
    weights = HeadWeights(np.ones(6), np.zeros(6), np.zeros((6, 4)), np.zeros(4), 1e-5, 1.0)
    states_VD = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    for skew in ("keep", "drop"):
        head = SteerableHead(Head(0, 0), weights, np.eye(6), skew=skew)
        for point in (
            Point(method="eigen", alpha=0.0),
            Point(method="control", alpha=0.0, draw=0),
            Point(method="singular", rank=2, scale=0.0),
            Point(method="gradient", step=0.5),
        ):
            steered = head.at(point)
            assert steered.dose == 0
            np.testing.assert_array_equal(scores_of(steered.weights, states_VD), np.zeros((5, 5)))


def test_draws_depend_on_the_seed_and_the_head() -> None:
    rng = np.random.default_rng(1)
    weights = HeadWeights(np.ones(16), np.zeros(16), rng.standard_normal((16, 12)), np.zeros(12), 1e-5, 1.0)
    point = Point(method="control", alpha=0.0, draw=0)
    drawn = {
        SteerableHead(head, weights, np.eye(16), seed=seed).at(point).weights.w_qk_D2H.tobytes()
        for head in (Head(0, 0), Head(0, 1), Head(1, 0))
        for seed in (0, 1)
    }
    assert len(drawn) == 6
    scaled = replace(weights, scale=2.0)
    same = SteerableHead(Head(0, 0), scaled, np.eye(16), seed=0).at(point).weights
    assert same.w_qk_D2H.tobytes() in drawn
    assert same.scale == 2.0
