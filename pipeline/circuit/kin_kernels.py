"""Compiled loop of the mean score to kin: the sums that NumPy takes, without its copies of every kin's keys.

Shapes: R rows, V keys, H head dimension, N kin of a row.
"""

from __future__ import annotations

import numpy as np

from qkatlas.pipeline.scoring.cpu_compile import compiled
from qkatlas.pipeline.scoring.cpu_vectors import LINE, prefetch

WIDEST = 128
"""Largest H of `add_dots`: NumPy halves wider sums before it adds them."""


@compiled
def add_dots(queries_RH, keys_VH, kin_ids_RN, total_R):  # type: ignore[no-untyped-def]
    """Add each row's dot products with its kin's keys in float64, kin by kin, each with the bits of NumPy's `sum`.

    NumPy adds up to 128 numbers in eight strands, then the strands in pairs, then what is left over; fewer than eight
    one by one. Products of two float32 numbers are exact in float64, so that the order of sums decides every bit.

    Args:
        queries_RH: float32, C-contiguous; H at most `WIDEST`.
        keys_VH: float32, C-contiguous.
        kin_ids_RN: int32.
        total_R: float64, added to.
    """
    width = queries_RH.shape[1]
    whole = width - width % 8
    count = kin_ids_RN.shape[1]
    rows = queries_RH.shape[0]
    for r in range(rows):
        total = total_R[r]
        for n in range(count):
            if r + 1 < rows:
                # Keys lie scattered over memory: ask for those of the next row meanwhile.
                for column in range(0, width, LINE):
                    prefetch(keys_VH, kin_ids_RN[r + 1, n], column)
            u = kin_ids_RN[r, n]
            dot = 0.0
            if whole:
                s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = -0.0
                for i in range(0, whole, 8):
                    s0 += np.float64(queries_RH[r, i]) * np.float64(keys_VH[u, i])
                    s1 += np.float64(queries_RH[r, i + 1]) * np.float64(keys_VH[u, i + 1])
                    s2 += np.float64(queries_RH[r, i + 2]) * np.float64(keys_VH[u, i + 2])
                    s3 += np.float64(queries_RH[r, i + 3]) * np.float64(keys_VH[u, i + 3])
                    s4 += np.float64(queries_RH[r, i + 4]) * np.float64(keys_VH[u, i + 4])
                    s5 += np.float64(queries_RH[r, i + 5]) * np.float64(keys_VH[u, i + 5])
                    s6 += np.float64(queries_RH[r, i + 6]) * np.float64(keys_VH[u, i + 6])
                    s7 += np.float64(queries_RH[r, i + 7]) * np.float64(keys_VH[u, i + 7])
                dot = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
            for i in range(whole, width):
                dot += np.float64(queries_RH[r, i]) * np.float64(keys_VH[u, i])
            total += dot
        total_R[r] = total
