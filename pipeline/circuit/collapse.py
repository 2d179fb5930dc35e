"""Collapse: token states of a layer that no longer tell tokens apart.

Shapes: V tokens, D model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.text import streams

_GIANT = 3.0
"""Times the median norm from which a state is a giant."""

_PAIRS = 10_000
"""Random pairs of tokens whose cosines are taken."""


def collapse(states_VD: npt.NDArray[np.float32], unit_VD: npt.NDArray[np.float32]) -> dict[str, float]:
    """Measure how far a layer's token states have become one.

    Args:
        states_VD: float32 [V, D], the states that enter the layer.
        unit_VD: the same as `qkatlas.pipeline.circuit.kin.unit_states`.

    Returns:
        `giant_share`, the share of tokens whose norm is over 3 times the median, and `random_cosine`, the mean cosine
        of random pairs of two tokens: near 0 where states differ, 1 where they are one.
    """
    norm_V = np.sqrt(np.einsum("vd,vd->v", states_VD, states_VD, dtype=np.float64))
    count = len(states_VD)
    rng = streams.STATE_PAIRS.generator(count)
    first = rng.integers(0, count, _PAIRS)
    second = (first + rng.integers(1, max(count, 2), _PAIRS)) % count
    cosines = np.einsum("pd,pd->p", unit_VD[first], unit_VD[second], dtype=np.float64)
    return {
        "giant_share": float((norm_V > _GIANT * np.median(norm_V)).mean()),
        "random_cosine": float(cosines.mean()),
    }
