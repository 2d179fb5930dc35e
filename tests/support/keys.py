"""Queries and keys that are shaped like those of a trained head."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]


def spread_keys(count: int, width: int, seed: int = 0) -> tuple[Matrix, Matrix]:
    """Anisotropic queries and keys: decaying spectrum, a common offset, uneven norms, some duplicates."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1) ** -0.7
    keys = rng.standard_normal((count, width)) * spectrum * np.exp(0.3 * rng.standard_normal((count, 1))) + 0.5
    queries = rng.standard_normal((count, width)) * spectrum + 0.2
    keys[count // 2 : count // 2 + 20] = keys[3]
    return queries.astype(np.float32), keys.astype(np.float32)
