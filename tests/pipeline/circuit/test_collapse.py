"""How far token states have become one."""

from __future__ import annotations

import numpy as np
import pytest

from qkatlas.pipeline.circuit.collapse import collapse
from qkatlas.pipeline.models.architecture import Norm


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_random_states_are_apart_and_giants_along_one_direction_are_one(kind: str) -> None:
    rng = np.random.default_rng(0)
    norm, states_VD = Norm(kind=kind, eps=1e-6), rng.standard_normal((2000, 64)).astype(np.float32)
    found = collapse(states_VD, norm, threads=1)
    assert found["giant_share"] == 0
    assert abs(found["random_cosine"]) < 0.02
    states_VD[:700] += 100 * rng.standard_normal(64).astype(np.float32)
    found = collapse(states_VD, norm, threads=1)
    assert found["giant_share"] == 0.35
    assert found["random_cosine"] == pytest.approx(0.35**2, abs=0.02)


def test_rms_norm_centres_nothing() -> None:
    """A part that all dimensions share is no direction to LayerNorm, and the strongest one to RMSNorm."""
    states_VD = np.random.default_rng(1).standard_normal((1000, 64)).astype(np.float32) + 20
    for kind, low, high in (("layer", -0.05, 0.05), ("rms", 0.95, 1.0)):
        norm = Norm(kind=kind, eps=1e-6)
        assert low < collapse(states_VD, norm, threads=1)["random_cosine"] < high
