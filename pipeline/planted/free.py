"""Directions of a planted checkpoint that nothing writes to, for heads that are planted afterwards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qkatlas.pipeline.planted.checkpoint import Float32

EMBEDDING = "transformer.wte.weight"


def without_direction(tensors: Mapping[str, Float32], direction_D: NDArray[np.float64]) -> dict[str, Float32]:
    """What writes to the residual stream, with nothing along a direction."""
    names = [name for name in tensors if ".c_proj." in name or name == EMBEDDING]
    direction = direction_D.astype(np.float32)
    return {name: tensors[name] - (tensors[name] @ direction)[..., None] * direction for name in names}
