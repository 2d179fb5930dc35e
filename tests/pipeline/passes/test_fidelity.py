"""Fidelity against NumPy's correlation of Hugging Face's own scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.fidelity import LayerProjection, correlation, correlation_sums, rows_of


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
