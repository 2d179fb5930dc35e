"""kappa + c against transformers' eager attention in float64, in every family, and what wrong formulas do to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import reference
from support.families import VARIANTS, make, raw_scores
from support.float64 import all_in_float64

from qkatlas.pipeline.circuit.projection import HeadWeights, head_weights
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.layers import capped
from qkatlas.pipeline.models.rotary import Rotary
from qkatlas.pipeline.positions.embedded import Embedded, ExactKeys
from qkatlas.pipeline.positions.exact_source import exact_means
from qkatlas.pipeline.positions.text_source import means_of_windows
from qkatlas.pipeline.positions.windows import Windows

pytestmark = pytest.mark.slow

LENGTH, WINDOWS = 24, 5


class InModel:
    """A checkpoint, and what its own attention scores on some windows."""

    def __init__(self, folder: Path, length: int = LENGTH) -> None:
        self.checkpoint = Checkpoint.open(folder)
        a = self.checkpoint.architecture
        self.tokens_BT = np.random.default_rng(0).integers(3, a.vocab_size, (WINDOWS, length))
        self.tokens_BT[:, 0] = a.require_bos()
        model = reference(folder)
        with all_in_float64():
            self.scores, hidden = raw_scores(model, torch.from_numpy(self.tokens_BT))
        self.hidden = [states.numpy() for states in hidden]

    def windows(self, weights: HeadWeights, layer: int) -> Windows:
        return Windows.of(weights, self.tokens_BT, self.hidden[layer], threads=1)

    def error(self, head: Head, change: Callable[[HeadWeights], HeadWeights] = lambda weights: weights) -> float:
        """Largest difference of kappa + c of text from the model's own score, over pairs that are read, BOS aside."""
        a = self.checkpoint.architecture
        weights = change(head_weights(self.checkpoint, head))
        windows = self.windows(weights, head.layer)
        means = means_of_windows(weights, a, head.layer, windows[:4])
        n_T = np.arange(self.tokens_BT.shape[1])
        worst = 0.0
        for b in range(WINDOWS):
            query_TH, key_TH = windows.query_BTH[b], windows.key_BTH[b]
            c_TT = means.scores(query_TH, n_T, key_TH - means.keys_at(n_T))
            found_TT = capped(means.kappa(query_TH, n_T) + c_TT, means.cap)
            real_TT = self.scores[head.layer][b, head.index]
            read_TT = means.read(n_T)
            assert (real_TT[read_TT] > -1e20).all(), "transformers masks a key that is read here"
            late = read_TT.clone()
            late[:, 0] = True  # BOS is left out by choice, not by the mask
            assert (real_TT[~late] < -1e20).all(), "transformers reads a key that is masked here"
            worst = max(worst, float((found_TT - real_TT)[read_TT].abs().max()))
        return worst


def heads_of(a: Any) -> list[Head]:
    return [Head(layer, head) for layer in range(a.n_layers) for head in (0, a.n_heads - 1)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_kappa_and_c_are_the_models_own_score(variant: str, tmp_path: Path) -> None:
    found = InModel(make(variant, tmp_path))
    errors = [found.error(head) for head in heads_of(found.checkpoint.architecture)]
    assert max(errors) < 1e-10


def test_later_layers_of_learned_positions_too(random_model: Path) -> None:
    found = InModel(random_model)
    assert max(found.error(head) for head in heads_of(found.checkpoint.architecture)) < 1e-10


def exact_error(found: InModel, head: Head, change: Callable[[HeadWeights], HeadWeights]) -> float:
    """The same where the weights give kappa and c exactly."""
    checkpoint = found.checkpoint
    a = checkpoint.architecture
    weights = change(head_weights(checkpoint, head))
    length = found.tokens_BT.shape[1]
    rows = Embedded.of(checkpoint, length)
    weight_V = np.full(a.vocab_size, 1 / a.vocab_size)
    means, _ = exact_means(weights, a, rows, rows.mean_input(weight_V, threads=1), destination=None)
    windows, n_T = found.windows(weights, 0), np.arange(length)
    worst = 0.0
    for b in range(WINDOWS):
        token_TD, position_TD = rows.tokens(found.tokens_BT[b]), rows.positions()
        keys = ExactKeys.of(weights, token_TD, position_TD, rows.inverse_scale(token_TD, position_TD))
        kappa_TT = means.kappa(windows.query_BTH[b], n_T)
        c_TUT = keys.scores(windows.query_BTH[b]) - kappa_TT[:, None]
        own_TT = c_TUT[:, n_T, n_T]  # of each key the token that stands there
        difference = kappa_TT + own_TT - found.scores[0][b, head.index]
        worst = max(worst, float(difference[means.read(n_T)].abs().max()))
    return worst


@pytest.fixture(scope="module")
def learned(random_model: Path) -> InModel:
    return InModel(random_model)


def test_layer_0_of_learned_positions_is_exact(learned: InModel) -> None:
    for head in range(8):
        assert exact_error(learned, Head(0, head), lambda weights: weights) < 1e-10


def gain_twice(weights: HeadWeights) -> HeadWeights:
    return replace(weights, gain_D=weights.gain_D**2)


def test_a_gain_that_is_folded_twice_fails(learned: InModel) -> None:
    assert exact_error(learned, Head(0, 1), gain_twice) > 0.1
    assert learned.error(Head(1, 1), gain_twice) > 0.1


def sine_of_wrong_sign(self: Rotary, values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return TURNED(self, values, cos, -sin)


def interleaved(self: Rotary, values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Pairs 2j and 2j + 1 in place of j and j + H/2."""
    whole = self.turned
    first, second = values[..., 0:whole:2], values[..., 1:whole:2]
    both = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
    return torch.cat([both * self.factor, values[..., whole:]], dim=-1)


TURNED = Rotary._turned


@pytest.mark.parametrize("variant", ["llama-groups-of-3", "neox-sequential", "gemma-3"])
@pytest.mark.parametrize("wrong", [sine_of_wrong_sign, interleaved])
def test_wrong_rotations_fail(variant: str, wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = InModel(make(variant, tmp_path))
    head = Head(1, 0)
    assert found.error(head) < 1e-10
    monkeypatch.setattr(Rotary, "_turned", wrong)
    assert found.error(head) > 1e-3


def test_a_gain_that_is_folded_twice_fails_under_rotary_positions(tmp_path: Path) -> None:
    found = InModel(make("llama-groups-of-3", tmp_path))
    assert found.error(Head(0, 3), gain_twice) > 0.01
