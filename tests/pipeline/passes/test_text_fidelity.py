"""Fidelity on text against NumPy's correlation of what reaches the softmax of transformers' eager attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import reference
from support.families import EVERY, make, raw_scores

from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.circuit.text_streams import text_loss
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.passes.text_fidelity import text_fidelity

pytestmark = pytest.mark.slow


class Given:
    """States that are what a test says."""

    layer = 0

    def __init__(self, by_layer: Sequence[np.ndarray]) -> None:
        self._by_layer = by_layer
        self.values_VD = by_layer[0]

    def advance_to(self, layer: int) -> np.ndarray:
        return self._by_layer[layer]


def within_rows(guess_NTT: np.ndarray, real_NTT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a query and a key it reads but the first, each query's mean taken away, [N, pairs]."""
    left, right = [], []
    for query in range(2, real_NTT.shape[1]):
        keys = [key for key in range(1, query + 1) if real_NTT[0, query, key] > -1e20]  # others are masked
        if len(keys) >= 2:
            for side, scores in ((left, guess_NTT), (right, real_NTT)):
                row = scores[:, query, keys]
                side.append(row - row.mean(axis=1, keepdims=True))
    return np.concatenate(left, axis=1), np.concatenate(right, axis=1)


@pytest.mark.parametrize("variant", EVERY)
def test_the_real_side_is_the_models_own(variant: str, tmp_path: Path) -> None:
    folder = make(variant, tmp_path)
    model = reference(folder)
    checkpoint = Checkpoint.open(folder)
    a = checkpoint.architecture
    # No token stands twice, so that the states of tokens can be those of positions.
    tokens_BT = np.random.default_rng(1).permutation(a.vocab_size)[:36].reshape(3, 12)
    order = np.argsort(tokens_BT.ravel())
    real, hidden = raw_scores(model, torch.from_numpy(tokens_BT))
    exact = [h.reshape(36, -1)[order].float().numpy() for h in hidden[: a.n_layers]]
    noise = np.random.default_rng(2)
    noisy = [x_UD + (0.7 * x_UD.std() * noise.standard_normal(x_UD.shape)).astype(np.float32) for x_UD in exact]
    found = text_fidelity(checkpoint, tokens_BT, {"exact": Given(exact), "noisy": Given(noisy)}, threads=2)
    np.testing.assert_allclose(found["exact"], 1.0, atol=1e-6)
    for layer in range(a.n_layers):
        guessed = scores_of_layer(model, layer, noisy[layer][np.argsort(order)].reshape(3, 12, -1), tokens_BT)
        pairs = [within_rows(guessed[b].numpy(), real[layer][b].numpy()) for b in range(3)]
        x, y = (np.concatenate(side, axis=1) for side in zip(*pairs, strict=True))
        expected = [np.corrcoef(x[head], y[head])[0, 1] for head in range(a.n_heads)]
        # Rows are centred already, and corrcoef centres all pairs at once: the same.
        np.testing.assert_allclose(found["noisy"][layer], expected, atol=1e-5)
        assert max(expected) < 0.99


@pytest.mark.parametrize("variant", EVERY)
def test_the_loss_is_that_of_transformers(variant: str, tmp_path: Path) -> None:
    folder = make(variant, tmp_path)
    model = reference(folder)
    tokens_BT = np.random.default_rng(4).integers(0, model.config.vocab_size, (70, 9))
    tokens = torch.from_numpy(tokens_BT)
    with torch.no_grad():
        expected = float(model(tokens, labels=tokens).loss)
    assert np.isclose(text_loss(Checkpoint.open(folder), tokens_BT, threads=2), expected, rtol=1e-5)


def scores_of_layer(model: Any, layer: int, x_BTD: np.ndarray, tokens_BT: np.ndarray) -> torch.Tensor:
    """What reaches the softmax of a layer when something else enters it."""
    layers = model.gpt_neox.layers if hasattr(model, "gpt_neox") else model.model.layers
    x = torch.from_numpy(x_BTD).to(next(model.parameters()).dtype)

    def enter(module: Any, arguments: Any, named: Any) -> Any:
        if "hidden_states" in named:
            return arguments, {**named, "hidden_states": x}
        return (x, *arguments[1:]), named

    handle = layers[layer].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        scores, _ = raw_scores(model, torch.from_numpy(tokens_BT))
    finally:
        handle.remove()
    return scores[layer]


def test_with_learned_positions_too(random_model: Path, reference_scores: Callable[..., np.ndarray]) -> None:
    checkpoint = Checkpoint.open(random_model)
    tokens_BT = np.random.default_rng(3).integers(0, 211, (4, 20))
    model = reference(random_model)
    real, _ = raw_scores(model, torch.from_numpy(tokens_BT))
    token_ids = np.unique(tokens_BT).tolist()
    states = TokenStates(checkpoint, "mlp", token_ids=token_ids, threads=1)
    found = text_fidelity(checkpoint, tokens_BT, {"mlp": states}, threads=1)["mlp"]
    for head in (0, 5):
        guess_VV = reference_scores(random_model, 1, head)
        pairs = [
            within_rows(guess_VV[np.ix_(row, row)][None], real[1][b, head : head + 1].numpy())
            for b, row in enumerate(tokens_BT)
        ]
        x, y = (np.concatenate(side, axis=1)[0] for side in zip(*pairs, strict=True))
        assert np.isclose(found[1, head], np.corrcoef(x, y)[0, 1], atol=1e-5)


def test_states_beyond_float32_have_no_fidelity(random_model: Path) -> None:
    checkpoint = Checkpoint.open(random_model)
    tokens_BT = np.arange(24).reshape(2, 12)
    states = TokenStates(checkpoint, "mlp", token_ids=list(range(24)), threads=1)
    huge = [np.full((24, 64), np.inf, np.float32)] * 3
    found = text_fidelity(checkpoint, tokens_BT, {"huge": Given(huge), "mlp": states}, threads=1)
    assert np.isfinite(found["mlp"]).all()
    assert np.isnan(found["huge"]).all()
