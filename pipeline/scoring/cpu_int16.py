"""Preselection in 16-bit integers: keys rounded once for all heads' rows, and scans of tiles of them.

Shapes: R rows of a tile, V keys, H head dimensions, P pairs of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qkatlas.pipeline.scoring import cpu_integers
from qkatlas.pipeline.scoring.cpu_integers import ROWS
from qkatlas.pipeline.scoring.cpu_kernels import Bounds
from qkatlas.pipeline.scoring.cpu_rounding import (
    LONGEST,
    Int16Array,
    Int32Array,
    RoundedRows,
    measure_keys,
    round_keys,
    round_rows,
)
from qkatlas.pipeline.scoring.cpu_tiling import ROW_TILE, Tiling, key_order
from qkatlas.pipeline.scoring.cpu_vectors import CHUNK
from qkatlas.pipeline.scoring.exact import Float32Array, Float64Array
from qkatlas.pipeline.scoring.rows import PreparedKeys

COARSE = 0.02
"""An error of this many standard deviations leaves more comparisons open than integers save products."""


class RoundedKeys:
    """Keys rounded to integers in a given order, cut into tiles of whole chunks.

    Args:
        keys: the keys.
        ids_V: int32, the order.
        tile_keys: keys of a tile, rounded up to whole chunks.
        packed_bytes: bytes to hold; tiles of more are made when needed.
    """

    def __init__(self, keys: PreparedKeys, ids_V: Int32Array, *, tile_keys: int, packed_bytes: int) -> None:
        self._keys_VH = keys.keys_VH
        self._ids_V = ids_V
        count, width = keys.keys_VH.shape
        self._chunk_integers = 2 * CHUNK * ((width + 1) // 2)
        tile_keys = -(-tile_keys // CHUNK) * CHUNK
        self.tiles = [(start, min(start + tile_keys, count)) for start in range(0, count, tile_keys)]
        self._rounding = measure_keys(keys.keys_VH, keys.mean_H.numpy())
        whole = -(-count // CHUNK) * self._chunk_integers
        self._packed: Int16Array | None = None
        if 2 * whole <= packed_bytes:
            self._packed = _aligned(whole)
            round_keys(keys.keys_VH, ids_V, self._rounding, self._packed)

    def parts(self) -> Iterator[tuple[Int16Array, slice]]:
        """Return integers in memory, and the tiles that they hold, until all keys were there."""
        if self._packed is not None:
            yield self._packed, slice(0, len(self.tiles))
            return
        for number, (start, stop) in enumerate(self.tiles):
            packed = _aligned(-(-(stop - start) // CHUNK) * self._chunk_integers)
            round_keys(self._keys_VH, self._ids_V[start:stop], self._rounding, packed)
            yield packed, slice(number, number + 1)

    def round(
        self, queries_RH: Float32Array, own_dot_R: Float64Array, mean_R: Float64Array
    ) -> tuple[RoundedRows, Bounds]:
        """Round rows and bound their sums.

        Args:
            queries_RH: float32.
            own_dot_R: float64 canonical dot product with the row's own key; infinite for none.
            mean_R: float64 q.mean, as `exact.row_moments` gives it.

        Returns:
            The rows in integers, and their bounds for `cpu_kernels`, whose scores are the sums in float32.
        """
        count, width = queries_RH.shape
        padded = -(-count // ROWS) * ROWS
        rounded = RoundedRows(
            rows_RH=np.zeros((padded, 2 * ((width + 1) // 2)), np.int16),
            unit_R=np.empty(count),
            bound_R=np.empty(count),
            low_R=np.empty(padded, np.int32),
            high_R=np.empty(padded, np.int32),
            floor_R=np.empty(padded, np.int32),
        )
        round_rows(queries_RH, self._rounding, own_dot_R, mean_R, rounded)
        # A sum's rounding to float32, and that of a float32 bound computed from such sums.
        half_R = rounded.bound_R + 2.0**-23 * LONGEST**2
        with np.errstate(over="ignore"):
            margin_R: Float32Array = np.nextafter((2 * half_R).astype(np.float32), np.float32(np.inf))
        unused_R = np.empty(0, np.float32)
        return rounded, Bounds(
            unit_R=rounded.unit_R, offset_R=mean_R, low_R=unused_R, high_R=unused_R, margin_R=margin_R
        )


def rounded_keys(keys: PreparedKeys, tiling: Tiling) -> RoundedKeys | None:
    """Return the keys as integers, made once; None where float32 is to preselect."""
    if not (tiling.integers and cpu_integers.available()):
        return None
    rounded: RoundedKeys = keys.packed(
        replace(tiling, rows=ROW_TILE),
        lambda keys, tiling: RoundedKeys(
            keys, key_order(keys.vocabulary_size), tile_keys=tiling.keys, packed_bytes=tiling.packed_bytes // 2
        ),
    )
    return rounded


def too_coarse(rounded: RoundedRows, std_R: Float64Array) -> bool:
    """Whether the error bounds of many of the rows are wide beside their scores' standard deviations."""
    coarse_R = rounded.bound_R > COARSE * std_R * rounded.unit_R
    return bool(8 * np.count_nonzero(coarse_R) > len(coarse_R))


def _aligned(count: int) -> Int16Array:
    """Return zeros that start at a cache line."""
    zeros = np.zeros(count + 32, np.int16)
    first = -zeros.ctypes.data % 64 // 2
    return zeros[first : first + count]
