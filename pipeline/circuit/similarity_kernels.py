"""Compiled loop of the similarity curve: one pass over a tile of pairs while it is in cache.

Shapes: R rows of a tile, N its keys, C cosine bins, B score bins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.scoring.cpu_compile import compiled


class TileSums(NamedTuple):
    """What is added to.

    Attributes:
        counts_CB: int32, pairs by cosine bin and score bin.
        sums_C: float64 sums of score minus self score, in the order of the pairs.
        squares_C: float64 sums of its square, likewise.
    """

    counts_CB: npt.NDArray[np.int32]
    sums_C: npt.NDArray[np.float64]
    squares_C: npt.NDArray[np.float64]


@compiled
def accumulate(cosines_RN, dots_RN, own_R, sums, scale, low, step):  # type: ignore[no-untyped-def]
    """Add a tile of pairs to a 2-D histogram and to each cosine bin's sums.

    Args:
        cosines_RN: float32, cosine of each pair; those past -1 or 1 by rounding go to the end bins.
        dots_RN: float32, dot product of each pair's query and key.
        own_R: float64, the rows' self scores.
        sums: `TileSums`, added to.
        scale: factor from dot product to score.
        low: lower edge of the first score bin.
        step: width of a score bin.
    """
    counts_CB, sums_C, squares_C = sums.counts_CB, sums.sums_C, sums.squares_C
    cosine_bins, score_bins = counts_CB.shape
    for row in range(dots_RN.shape[0]):
        own = own_R[row]
        for key in range(dots_RN.shape[1]):
            cosine_bin = int((cosines_RN[row, key] + 1.0) * 0.5 * cosine_bins)
            cosine_bin = min(max(cosine_bin, 0), cosine_bins - 1)
            difference = dots_RN[row, key] * scale - own
            score_bin = int((difference - low) / step)
            score_bin = min(max(score_bin, 0), score_bins - 1)
            counts_CB[cosine_bin, score_bin] += 1
            sums_C[cosine_bin] += difference
            squares_C[cosine_bin] += difference * difference
