"""Products whose bits depend on no number of threads.

Shapes: R rows, D what is summed over, J columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.models.blocks import for_blocks

Float64Array = npt.NDArray[np.float64]


def product(left_RD: npt.NDArray[np.floating], right_JD: npt.NDArray[np.floating], *, threads: int) -> Float64Array:
    """Dot products of all rows of two matrices, in float64: [R, J].

    Args:
        left_RD: [R, D].
        right_JD: [J, D].
        threads: threads to use; no number depends on it.
    """
    right_DJ = torch.from_numpy(np.ascontiguousarray(right_JD, dtype=np.float64)).T
    found_RJ = np.empty((len(left_RD), len(right_JD)))

    def multiply(rows: slice) -> None:
        found_RJ[rows] = torch.from_numpy(np.ascontiguousarray(left_RD[rows], dtype=np.float64)) @ right_DJ

    for_blocks(len(left_RD), multiply, threads)
    return found_RJ
