"""Rows and keys rounded to 16-bit integers, and the error of their products that this rounding really made.

With x = a q, a for each row, and y = b (k - mean key), b for all keys, let X and Y be x and y rounded to integers. a
and b are such that |X| |Y| < 2^31: every sum of products is exact in 32 bits. For t = a b (D - q.mean), D the canonical
dot product, x.y - X.Y = (x - X).Y + x.(y - Y), so by Cauchy and Schwarz

    |t - X.Y| <= E = |x - X| max|Y| + |x| max|y - Y| + 2^-44 a |q| b max|k| + 1e-6.

The lengths of what rounding left over are computed, not estimated. The third term covers the float64 roundings of D,
of q.mean, of x and y and of t, each at most (log2 H + 3) 2^-53 of its share; the last one those of E itself. Above the
row's own key surely are the keys with X.Y > t_own + E, surely not those with X.Y < t_own - E.

Shapes: R rows (queries), V keys, H head dimensions, P pairs of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.scoring.cpu_compile import compiled
from qkatlas.pipeline.scoring.cpu_vectors import CHUNK
from qkatlas.pipeline.scoring.exact import Float32Array, Float64Array

Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]

LONGEST = 46340
"""Length of a rounded row or key, at most: its square is below 2^31."""
LARGEST = 32767


class KeyRounding(NamedTuple):
    """How keys are rounded, and what that costs.

    Attributes:
        mean_H: float64 mean key.
        factor: b of the module's text.
        length: max |Y|, rounded up.
        residual: max |y - Y|, rounded up.
        norm: max |k|, rounded up.
    """

    mean_H: Float64Array
    factor: float
    length: float
    residual: float
    norm: float


class RoundedRows(NamedTuple):
    """Rounded rows, and per row what is certain about their sums of products.

    Attributes:
        rows_RH: int16 [R', 2P]; R' is R rounded up to a whole block, 2P is H rounded up to even.
        unit_R: float64, a b.
        bound_R: float64, E.
        low_R: int32 [R']; a sum below it is surely not above the row's own key.
        high_R: int32 [R']; a sum above it surely is.
        floor_R: int32 [R'], work space: the row's threshold in integers.
    """

    rows_RH: Int16Array
    unit_R: Float64Array
    bound_R: Float64Array
    low_R: Int32Array
    high_R: Int32Array
    floor_R: Int32Array


def measure_keys(keys_VH: Float32Array, mean_H: Float64Array) -> KeyRounding:
    """Choose the keys' factor, and measure what rounding does to them."""
    largest, centred, norm = _measure(keys_VH, mean_H)
    factor = _factor(keys_VH.shape[1], math.sqrt(centred), largest)
    length, residual = _measure_rounded(keys_VH, mean_H, factor)
    up = 1 + 1e-9
    return KeyRounding(
        mean_H=mean_H,
        factor=factor,
        length=math.sqrt(length) * up,
        residual=math.sqrt(residual) * up,
        norm=math.sqrt(norm) * up,
    )


@compiled
def _within_int32(value):  # type: ignore[no-untyped-def]
    return min(max(value, -(2.0**31)), 2.0**31 - 1.0)


@compiled
def _factor(width, norm, largest):  # type: ignore[no-untyped-def]
    """What to multiply a vector by, so that it is no longer than LONGEST after rounding; 1 for zeros."""
    if norm == 0:
        return 1.0
    return min((LONGEST - 1 - 0.5 * math.sqrt(width)) / norm, (LARGEST - 0.5) / largest)


@compiled
def _measure(keys_VH, mean_H):  # type: ignore[no-untyped-def]
    """Return the largest |entry| of k - mean, and the largest squares of |k - mean| and of |k|."""
    largest = centred = norm = 0.0
    for u in range(keys_VH.shape[0]):
        own = own_centred = 0.0
        for i in range(keys_VH.shape[1]):
            key = np.float64(keys_VH[u, i])
            own += key * key
            key -= mean_H[i]
            own_centred += key * key
            largest = max(largest, abs(key))
        norm = max(norm, own)
        centred = max(centred, own_centred)
    return largest, centred, norm


@compiled
def _measure_rounded(keys_VH, mean_H, factor):  # type: ignore[no-untyped-def]
    """Return the largest squares of |Y| and of |y - Y|."""
    longest = left_over = 0.0
    for u in range(keys_VH.shape[0]):
        length = residual = 0.0
        for i in range(keys_VH.shape[1]):
            y = factor * (np.float64(keys_VH[u, i]) - mean_H[i])
            rounded = np.rint(y)
            length += rounded * rounded
            residual += (y - rounded) * (y - rounded)
        longest = max(longest, length)
        left_over = max(left_over, residual)
    return longest, left_over


@compiled
def round_keys(keys_VH, ids_N, rounding, packed):  # type: ignore[no-untyped-def]
    """Round some keys and lay them out as `cpu_integers` reads them.

    Args:
        keys_VH: float32, all keys.
        ids_N: int32, which, in their order.
        rounding: from `measure_keys`.
        packed: int16, zeros, written to: room for whole chunks.
    """
    mean_H, factor = rounding.mean_H, rounding.factor
    width = keys_VH.shape[1]
    pairs = (width + 1) // 2
    # A row first, whose loop is made of vectors, then its pairs to their places.
    row = np.zeros(2 * pairs, np.int16)
    row_pairs, packed_pairs = row.view(np.int32), packed.view(np.int32)
    for place in range(ids_N.shape[0]):
        u = ids_N[place]
        for i in range(width):
            row[i] = np.int16(np.int32(np.rint(factor * (np.float64(keys_VH[u, i]) - mean_H[i]))))
        start = place // CHUNK * pairs * CHUNK + place % CHUNK
        for pair in range(pairs):
            packed_pairs[start + pair * CHUNK] = row_pairs[pair]


@compiled
def round_rows(queries_RH, rounding, own_dot_R, mean_R, out):  # type: ignore[no-untyped-def]
    """Round the rows of a tile.

    Args:
        queries_RH: float32.
        rounding: `KeyRounding` of all keys.
        own_dot_R: float64 canonical dot product with the row's own key; infinite for none.
        mean_R: float64 q.mean, as `exact.row_moments` gives it.
        out: `RoundedRows`, written to; entries beyond the rows are zeros.
    """
    count, width = queries_RH.shape
    for r in range(out.rows_RH.shape[0]):
        out.low_R[r] = out.high_R[r] = out.floor_R[r] = 2**31 - 1  # no sum is as large
        if r >= count:
            out.rows_RH[r] = 0
            continue
        norm = largest = 0.0
        for i in range(width):
            query = np.float64(queries_RH[r, i])
            norm += query * query
            largest = max(largest, abs(query))
        norm = math.sqrt(norm)
        factor = _factor(width, norm, largest)
        residual = 0.0
        for i in range(width):
            x = factor * np.float64(queries_RH[r, i])
            rounded = np.rint(x)
            residual += (x - rounded) * (x - rounded)
            out.rows_RH[r, i] = np.int16(rounded)
        unit = factor * rounding.factor
        length = factor * norm
        bound = math.sqrt(residual) * rounding.length + length * rounding.residual
        bound = (bound + 2.0**-44 * length * rounding.factor * rounding.norm) * (1 + 1e-9) + 1e-6
        out.unit_R[r] = unit
        out.bound_R[r] = bound
        own = (own_dot_R[r] - mean_R[r]) * unit
        out.low_R[r] = np.int32(_within_int32(np.ceil(own - bound)))
        out.high_R[r] = np.int32(_within_int32(np.floor(own + bound)))


@compiled
def integer_at_most(threshold):  # type: ignore[no-untyped-def]
    """Return an integer that no sum is below whose float32 rounding is at least `threshold`."""
    value = np.float64(threshold)
    if value >= 2.0**31:
        return np.int32(2**31 - 1)
    return np.int32(_within_int32(np.floor(value - abs(value) * 2.0**-23 - 1.0)))
