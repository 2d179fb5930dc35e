"""Collapse: token states of a layer that no longer tell tokens apart.

Shapes: V tokens, D model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.circuit.kin import unit_states
from qkatlas.pipeline.models.architecture import Norm
from qkatlas.pipeline.text import streams

_GIANT = 3.0
"""Times the median norm from which a state is a giant."""

_PAIRS = 10_000
"""Random pairs of tokens whose cosines are taken."""


def collapse(states_VD: npt.NDArray[np.float32], norm: Norm, *, threads: int) -> dict[str, float]:
    """Measure how far a layer's token states have become one.

    Args:
        states_VD: float32 [V, D], the states that enter the layer.
        norm: the model's normalisation, which decides what a cosine is taken of.
        threads: threads to use; the result does not depend on it.

    Returns:
        `giant_share`, the share of tokens whose norm is over 3 times the median, and `random_cosine`, the mean cosine
        of random pairs of two tokens: near 0 where states differ, 1 where they are one.
    """
    norm_V = np.sqrt(np.einsum("vd,vd->v", states_VD, states_VD, dtype=np.float64))
    count = len(states_VD)
    rng = streams.STATE_PAIRS.generator(count)
    first = rng.integers(0, count, _PAIRS)
    second = (first + rng.integers(1, max(count, 2), _PAIRS)) % count
    # The states of the pairs alone: a layer's whole vocabulary was made unit for its kin, and need not be again.
    one_PD, other_PD = (unit_states(states_VD[ids], norm, threads=threads) for ids in (first, second))
    cosines = np.einsum("pd,pd->p", one_PD, other_PD, dtype=np.float64)
    return {
        "giant_share": float((norm_V > _GIANT * np.median(norm_V)).mean()),
        "random_cosine": float(cosines.mean()),
    }
