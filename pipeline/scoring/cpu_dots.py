"""Compiled canonical dot products: the fixed tree of `exact`, bit for bit.

Shapes: R rows of a tile, V keys, H head dimensions, P half the padded width.
"""

from __future__ import annotations

import numpy as np

from qkatlas.pipeline.scoring.cpu_compile import compiled
from qkatlas.pipeline.scoring.cpu_vectors import dot_64, dot_128
from qkatlas.pipeline.scoring.exact import Float64Array, power_of_two_at_least


def make_scratch(head_dim: int) -> Float64Array:
    """Return the work space of `canonical_dot`: half the padded width."""
    return np.zeros(max(1, power_of_two_at_least(head_dim) // 2))


@compiled
def _tree_dot(queries_RH, r, keys_VH, u, scratch_P):  # type: ignore[no-untyped-def]
    """Do what `canonical_dot` does, for any width."""
    width = queries_RH.shape[1]
    half = scratch_P.shape[0]
    if width == 1:
        return np.float64(queries_RH[r, 0]) * np.float64(keys_VH[u, 0])
    paired = width - half
    for i in range(paired):
        low = np.float64(queries_RH[r, i]) * np.float64(keys_VH[u, i])
        scratch_P[i] = low + np.float64(queries_RH[r, i + half]) * np.float64(keys_VH[u, i + half])
    for i in range(paired, half):
        scratch_P[i] = np.float64(queries_RH[r, i]) * np.float64(keys_VH[u, i]) + 0.0
    while half > 8:
        half //= 2
        for i in range(half):
            scratch_P[i] += scratch_P[i + half]
    if half == 8:
        # The last three levels of the same tree, without loops: they are a third of the time otherwise.
        even = (scratch_P[0] + scratch_P[4]) + (scratch_P[2] + scratch_P[6])
        odd = (scratch_P[1] + scratch_P[5]) + (scratch_P[3] + scratch_P[7])
        return even + odd
    while half > 1:
        half //= 2
        for i in range(half):
            scratch_P[i] += scratch_P[i + half]
    return scratch_P[0]


@compiled
def canonical_dot(queries_RH, r, keys_VH, u, scratch_P):  # type: ignore[no-untyped-def]
    """Return the fixed-tree float64 dot product of query r and key u; `scratch_P` is half the padded width.

    Whole arrays and indices, because views of rows would cost reference counting on every call. Short, because calls
    of short functions are made in place.
    """
    width = queries_RH.shape[1]
    if width == 64:
        return dot_64(queries_RH, r, keys_VH, u)
    if width == 128:
        return dot_128(queries_RH, r, keys_VH, u)
    return _tree_dot(queries_RH, r, keys_VH, u, scratch_P)


@compiled
def canonical_row(queries_RH, r, keys_VH, scratch_P, dots_V):  # type: ignore[no-untyped-def]
    """Fill `dots_V` with the canonical dot products of query r and every key."""
    for u in range(keys_VH.shape[0]):
        dots_V[u] = canonical_dot(queries_RH, r, keys_VH, u, scratch_P)


@compiled
def own_dots(queries_RH, keys_VH, row_ids_R, scratch_P, dots_R):  # type: ignore[no-untyped-def]
    """Fill `dots_R` with the canonical dot product of each query and its own key."""
    for r in range(queries_RH.shape[0]):
        dots_R[r] = canonical_dot(queries_RH, r, keys_VH, row_ids_R[r], scratch_P)
