"""Fidelity against NumPy's correlation of Hugging Face's own scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.fidelity import (
    LayerProjection,
    correlation,
    correlation_sums,
    row_figures,
    row_sums,
    rows_of,
)


def test_correlations_equal_numpys(random_model: Path, reference_scores: Callable[..., np.ndarray]) -> None:
    checkpoint = Checkpoint.open(random_model)
    weights = ModelWeights.read(checkpoint, "key")
    tokens_PT = np.random.default_rng(0).integers(0, 211, (6, 30))
    token_ids = np.unique(tokens_PT).tolist()
    states_UD = TokenStates(checkpoint, "mlp", token_ids=token_ids, threads=1).advance_to(1)
    projection = LayerProjection.of(weights, 1, states_UD, threads=1)
    rows_PT = rows_of(token_ids, tokens_PT)
    assert np.array_equal(np.array(token_ids)[rows_PT], tokens_PT)
    predicted_PNTT = projection.scores(rows_PT)
    expected_VV = reference_scores(random_model, 1, 3)
    np.testing.assert_allclose(
        predicted_PNTT[2, 3].numpy(), expected_VV[np.ix_(tokens_PT[2], tokens_PT[2])], rtol=1e-4, atol=1e-3
    )
    seen: list[torch.Tensor] = []
    Forward(weights).attention_scores(tokens_PT, [1], lambda layer, scores: seen.append(scores))
    real_PNTT = seen[0]
    halves = [correlation_sums(predicted_PNTT[part], real_PNTT[part]) for part in (slice(0, 2), slice(2, 6))]
    found_N = correlation(halves[0] + halves[1])
    causal = np.tril_indices(30)
    for head in range(8):
        x, y = (values[:, head][:, causal[0], causal[1]].numpy().ravel() for values in (predicted_PNTT, real_PNTT))
        assert np.isclose(found_N[head], np.corrcoef(x, y)[0, 1], atol=1e-9)
    itself = correlation(correlation_sums(real_PNTT, 2 * real_PNTT + 1))
    np.testing.assert_allclose(itself, 1.0)


def test_a_side_that_does_not_vary_has_no_correlation() -> None:
    same, varying = torch.full((2, 1, 4, 4), 3.7), torch.randn(2, 1, 4, 4)
    assert np.isnan(correlation(correlation_sums(same, varying))).all()
    assert np.isnan(correlation(correlation_sums(varying, same))).all()


@pytest.mark.parametrize("window", [None, 5])
def test_figures_within_rows_equal_loops_over_rows(window: int | None) -> None:
    rng = np.random.default_rng(3)
    real_PNTT = rng.standard_normal((5, 2, 12, 12))
    predicted_PNTT = 0.4 * real_PNTT + rng.standard_normal(real_PNTT.shape)
    predicted_PNTT[..., 0] += 50.0  # BOS is no key here, and a row's level is no part of it
    predicted_PNTT += rng.standard_normal((5, 2, 12, 1)) * 10
    unread = np.triu(np.ones((12, 12), bool), 1)
    predicted_PNTT[..., unread], real_PNTT[..., unread] = np.nan, np.finfo(np.float32).min
    tensors = torch.from_numpy(predicted_PNTT), torch.from_numpy(real_PNTT)
    halves = [row_sums(*(tensor[part] for tensor in tensors), window) for part in (slice(0, 2), slice(2, 5))]
    found = row_figures(halves[0] + halves[1])
    for head in range(2):
        x, y, distances, uniform = [], [], [], []
        for prompt in range(5):
            for query in range(12):
                keys = [key for key in range(1, query + 1) if window is None or query - key < window]
                if len(keys) < 2:
                    continue
                row = [values[prompt, head, query, keys] for values in (predicted_PNTT, real_PNTT)]
                x, y = ([*kept, *(values - values.mean())] for kept, values in zip((x, y), row, strict=True))
                guess, real = (np.exp(values) / np.exp(values).sum() for values in row)
                distances.append(np.abs(guess - real).sum() / 2)
                uniform.append(np.abs(1 / len(keys) - real).sum() / 2)
        assert found["correlation"][head] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
        assert found["distance"][head] == pytest.approx(np.mean(distances), abs=1e-12)
        assert found["uniform_distance"][head] == pytest.approx(np.mean(uniform), abs=1e-12)


def test_scores_that_a_window_leaves_out_are_no_part_of_a_correlation() -> None:
    rng = np.random.default_rng(4)
    x, y = (rng.standard_normal((2, 1, 9, 9)) for _ in range(2))
    query, key = np.tril_indices(9)
    near = query - key < 4
    y[..., query[~near], key[~near]] = np.finfo(np.float32).min
    found = correlation(correlation_sums(torch.from_numpy(x), torch.from_numpy(y), 4))
    expected = np.corrcoef(*(values[:, 0, query[near], key[near]].ravel() for values in (x, y)))[0, 1]
    assert found[0] == pytest.approx(expected, abs=1e-12)


def test_rows_that_do_not_vary_have_no_correlation_within() -> None:
    same, varying = torch.full((2, 1, 4, 4), 3.7), torch.randn(2, 1, 4, 4)
    assert np.isnan(row_figures(row_sums(same, varying))["correlation"]).all()
    assert np.isnan(row_figures(row_sums(varying[:, :, :2, :2], varying[:, :, :2, :2]))["distance"]).all()
