"""A head steered inside models with rotary positions, against NumPy's dense forms and transformers' own passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import reference
from support.families import make, raw_scores
from support.in_model import counted

from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.circuit.projection import HeadWeights, head_weights
from qkatlas.pipeline.circuit.spectrum import second_moment
from qkatlas.pipeline.circuit.states import TokenStates, normalise
from qkatlas.pipeline.circuit.steering_offsets import EveryOffset
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import for_batches
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.steering import InModel, run_steered_at_distances
from qkatlas.pipeline.text.prompts import CategoryPrompts

HEAD = Head(1, 1)
LENGTH = 12


@pytest.fixture(scope="module")
def prompts() -> CategoryPrompts:
    rng = np.random.default_rng(0)
    categories_PT = rng.integers(0, 3, (2, LENGTH))
    tokens_PT = 1 + categories_PT * 4 + rng.integers(0, 3, (2, LENGTH))
    tokens_PT[:, 0] = 0
    return CategoryPrompts(tokens_PT.astype(np.int64), categories_PT.astype(np.int64))


def steered(checkpoint: Checkpoint, prompts: CategoryPrompts, *points: Point) -> list[InModel]:
    a = checkpoint.architecture
    states_VD = TokenStates(checkpoint, "mlp", threads=1).advance_to(HEAD.layer)
    head = EveryOffset(
        head=HEAD,
        weights=head_weights(checkpoint, HEAD),
        moment_DD=second_moment(normalise(states_VD, a.norm, threads=1), threads=1),
        skew="keep",
        eigenvalues="all",
        move="keys",
        seed=0,
    )
    distances = min(LENGTH, a.window_of(HEAD.layer) or LENGTH)
    weights = ModelWeights.read(checkpoint, "rotary")
    found = []
    for point in points:
        own = head.at(point, distances)
        found += for_batches(
            weights, [prompts], lambda model, here, own=own: run_steered_at_distances(model, HEAD, own, here), threads=1
        )
    return found


def dense_scores(weights: HeadWeights, stream_PTD: np.ndarray, alpha: float) -> np.ndarray:
    """Scores [P, T, T] from one dense matrix a distance, whose symmetric part has its negative eigenvalues scaled."""
    assert weights.rotary is not None
    centred = stream_PTD - (stream_PTD.mean(-1, keepdims=True) if weights.norm_kind == "layer" else 0)
    n_PTD = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + weights.eps)
    w_q_DH, w_k_DH = np.split(weights.gain_D[:, None] * weights.w_qk_D2H, 2, axis=1)
    b_q_H, b_k_H = np.split(weights.shift_D @ weights.w_qk_D2H + weights.b_qk_2H, 2)
    half = weights.rotary.turned // 2
    scores_PTT = np.full((*stream_PTD.shape[:2], stream_PTD.shape[1]), -np.inf)
    for distance in range(min(stream_PTD.shape[1], weights.n_ctx or LENGTH)):
        turn_HH = np.eye(w_q_DH.shape[1])
        for j, frequency in enumerate(weights.rotary.frequencies()):
            cos, sin = (weights.rotary.factor**2 * of(distance * frequency) for of in (np.cos, np.sin))
            # A row vector is turned from the right.
            turn_HH[j, j], turn_HH[j + half, j + half] = cos, cos
            turn_HH[j, j + half], turn_HH[j + half, j] = sin, -sin
        form_DD = w_q_DH @ turn_HH @ w_k_DH.T
        values, vectors = np.linalg.eigh((form_DD + form_DD.T) / 2)
        form_DD = form_DD + (vectors * np.where(values < 0, (alpha - 1) * values, 0)) @ vectors.T
        for query in range(distance, stream_PTD.shape[1]):
            q_PD, k_PD = n_PTD[:, query], n_PTD[:, query - distance]
            biases = q_PD @ w_q_DH @ turn_HH @ b_k_H + k_PD @ w_k_DH @ turn_HH.T @ b_q_H + b_q_H @ turn_HH @ b_k_H
            scores_PTT[:, query, query - distance] = (
                np.einsum("pd,de,pe->p", q_PD, form_DD, k_PD) + biases
            ) * weights.scale
    if weights.cap is not None:
        scores_PTT = np.where(np.isfinite(scores_PTT), weights.cap * np.tanh(scores_PTT / weights.cap), -np.inf)
    return scores_PTT


def hugging_face(model: Any, prompts: CategoryPrompts, scores_PTT: np.ndarray | None) -> InModel:
    """The measures, counted key by key, of transformers' model with one head's scores put in its softmax's place."""
    softmax, calls, patterns = torch.nn.functional.softmax, [0], []

    def replaced(scores: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        if calls[0] == HEAD.layer:
            scores = scores.clone()
            if scores_PTT is not None:
                scores[:, HEAD.index] = torch.from_numpy(scores_PTT)
            patterns.append(softmax(scores, dim=-1)[:, HEAD.index].double().numpy())
        calls[0] += 1
        return softmax(scores, *arguments, **named)

    torch.nn.functional.softmax = replaced
    try:
        with torch.no_grad():
            log_p = model(torch.from_numpy(prompts.tokens_PT)).logits.double().log_softmax(-1).numpy()
    finally:
        torch.nn.functional.softmax = softmax
    (pattern_PTT,) = patterns
    return counted(pattern_PTT, log_p, prompts)


def assert_same(found: InModel, expected: InModel) -> None:
    for name in ("identical_mass_P", "category_mass_P", "bos_mass_P", "loss_P"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["llama-groups-of-3", "llama-biases", "llama-yarn", "mistral", "gemma-2", "neox"])
def test_each_distance_has_its_own_form_steered(variant: str, prompts: CategoryPrompts, tmp_path: Path) -> None:
    folder = make(variant, tmp_path)
    checkpoint, model = Checkpoint.open(folder), reference(folder)
    points = [Point(method="unsteered"), *(Point(method="eigen", alpha=alpha) for alpha in (1.0, -1.0))]
    plain, same, changed = steered(checkpoint, prompts, *points)
    expected = hugging_face(model, prompts, None)
    assert_same(plain, expected)
    assert_same(same, expected)
    stream_PTD = raw_scores(model, torch.from_numpy(prompts.tokens_PT))[1][HEAD.layer].double().numpy()
    expected = hugging_face(model, prompts, dense_scores(head_weights(checkpoint, HEAD), stream_PTD, -1.0))
    assert_same(changed, expected)
    assert np.abs(changed.bos_mass_P - plain.bos_mass_P).max() > 1e-3  # the change is large enough to be seen
    assert np.abs(changed.loss_P - plain.loss_P).max() > 1e-4
