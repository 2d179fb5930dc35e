"""Row mean and standard deviation by a compiled loop: `exact.row_moments`, bit for bit, for the CPU engine.

Shapes: R rows (queries), H head dimensions, P padded width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from qkatlas.pipeline.scoring.cpu_compile import compiled
from qkatlas.pipeline.scoring.exact import (
    Float32Array,
    Float64Array,
    KeyMoments,
    power_of_two_at_least,
    query_piece_bits,
)


class _Moments(NamedTuple):
    """`KeyMoments` in NumPy."""

    mean_H: Float64Array
    scale_H: Float64Array
    covariance_high_HH: Float64Array
    covariance_low_HH: Float64Array


def row_moments(queries_RH: Float32Array, moments: KeyMoments) -> tuple[Float64Array, Float64Array]:
    """Return `exact.row_moments`, the same bits, by the compiled kernel."""
    rows, width = queries_RH.shape
    mean_R, std_R = np.empty(rows), np.empty(rows)
    high, low = moments.covariance_pieces
    _row_moments(
        queries_RH,
        _Moments(moments.mean_H.numpy(), moments.scale_H.numpy(), high.numpy(), low.numpy()),
        np.zeros((5, power_of_two_at_least(width))),
        mean_R,
        std_R,
        key_bits=moments.bits,
        query_bits=query_piece_bits(width, moments.bits),
    )
    return mean_R, std_R


@compiled
def _fold(work, line):  # type: ignore[no-untyped-def]
    """Sum a line of padded width by the fixed tree."""
    half = work.shape[1]
    while half > 1:
        half //= 2
        for i in range(half):
            work[line, i] += work[line, i + half]
    return work[line, 0]


@compiled
def _row_moments(  # type: ignore[no-untyped-def]
    queries_RH, moments, work_5P, mean_R, std_R, key_bits, query_bits
):
    """Do what `exact.row_moments` does, bit for bit, in one pass over a row instead of twenty over the tile.

    `work_5P` is float64 zeros [5, padded width]; what lies beyond the width stays zero.
    """
    mean_H, scale_H = moments.mean_H, moments.scale_H
    high_HH, low_HH = moments.covariance_high_HH, moments.covariance_low_HH
    width = queries_RH.shape[1]
    key_unit = 2.0**-key_bits
    query_unit = 2.0**-query_bits
    for r in range(queries_RH.shape[0]):
        largest = 0.0
        for i in range(width):
            query = np.float64(queries_RH[r, i])
            work_5P[0, i] = query * mean_H[i]
            work_5P[1, i] = query * scale_H[i]
            largest = max(largest, abs(work_5P[1, i]))
        mean_R[r] = _fold(work_5P, 0)
        unit = math.ldexp(1.0, math.frexp(largest)[1]) if largest > 0 else 1.0
        for i in range(width):
            work_5P[1, i] /= unit
            work_5P[2, i] = 0.0
            work_5P[3, i] = 0.0
            work_5P[4, i] = 0.0
        for i in range(width):
            scaled = work_5P[1, i] * 2.0**query_bits
            high = np.rint(scaled)
            low = np.rint((scaled - high) * 2.0**query_bits)
            for j in range(width):
                work_5P[2, j] += high * high_HH[i, j]
                work_5P[3, j] += high * low_HH[i, j]
                work_5P[4, j] += low * high_HH[i, j]
        for i in range(width):
            smaller = work_5P[3, i] * key_unit + work_5P[4, i] * query_unit
            work_5P[2, i] = work_5P[1, i] * ((work_5P[2, i] + smaller) * (key_unit * query_unit))
        std_R[r] = math.sqrt(max(_fold(work_5P, 2), 0.0)) * unit
