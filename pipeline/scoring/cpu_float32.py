"""Keys for preselection by a float32 matrix product, and the faster of two such products.

Shapes: R rows (queries), V keys, H head dimensions, N keys of a tile.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from qkatlas.pipeline.scoring.bound import key_scale
from qkatlas.pipeline.scoring.cpu_tiling import ROW_TILE, Tiling, key_order, tile_bounds
from qkatlas.pipeline.scoring.rows import PreparedKeys


class PackedKeys:
    """Centred, scaled keys in a seeded random order, cut into tiles for the float32 product."""

    def __init__(self, keys: PreparedKeys, tiling: Tiling) -> None:
        self._keys_VH = keys.keys_VH
        count, self._width = keys.keys_VH.shape
        self.ids_V = key_order(count)
        self.tiles = tile_bounds(count, tiling.keys)
        self.scale = key_scale(keys.keys_VH, keys.mean_H.numpy())
        self._packed: list[torch.Tensor] | None = None
        self._use_onednn = _onednn_is_faster(self._width, tiling)
        if count * self._width * 4 <= tiling.packed_bytes:
            self._packed = [self._make_tile(tile) for tile in range(len(self.tiles))]

    def _make_tile(self, tile: int) -> torch.Tensor:
        ids = self.ids_V[slice(*self.tiles[tile])]
        tile_NH = torch.from_numpy(self.scale.centre(self._keys_VH[ids]))
        if self._use_onednn:
            packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(tile_NH, ROW_TILE)
            return packed
        return tile_NH.t()

    def product(self, queries_RH: torch.Tensor, tile: int, buffer: torch.Tensor) -> torch.Tensor:
        """Return the float32 scores [R, N] of a tile of keys, in the memory of `buffer` where the library allows it."""
        keys = self._packed[tile] if self._packed is not None else self._make_tile(tile)
        if self._use_onednn:
            scores_RN: torch.Tensor = torch.ops.mkldnn._linear_pointwise(queries_RH, keys, None, "none", [], "")
            return scores_RN
        rows, columns = queries_RH.shape[0], keys.shape[1]
        return torch.mm(queries_RH, keys, out=buffer[: rows * columns].view(rows, columns))


def packed_keys(keys: PreparedKeys, tiling: Tiling) -> PackedKeys:
    """Return the keys as the float32 product wants them, made once: one copy serves every k."""
    packed: PackedKeys = keys.packed(replace(tiling, rows=ROW_TILE, integers=False), PackedKeys)
    return packed


_faster: dict[int, bool] = {}


def _onednn_is_faster(width: int, tiling: Tiling) -> bool:
    """Time torch.mm into a buffer against oneDNN's prepacked linear on this machine, once per head dimension."""
    if width not in _faster:
        _faster[width] = _time_products(width, tiling)
    return _faster[width]


def _time_products(width: int, tiling: Tiling) -> bool:
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")):
        return False
    queries_RH = torch.ones(tiling.rows, width)
    keys_NH = torch.ones(tiling.keys, width)
    buffer_RN = torch.empty(tiling.rows, tiling.keys)
    try:
        weight = torch.ops.mkldnn._reorder_linear_weight(keys_NH, tiling.rows)
        torch.ops.mkldnn._linear_pointwise(queries_RH, weight, None, "none", [], "")
    except (RuntimeError, NotImplementedError):  # an operator of torch's own compiler, absent from some builds
        return False
    seconds = {False: math.inf, True: math.inf}
    for _ in range(8):
        begin = time.perf_counter()
        torch.mm(queries_RH, keys_NH.t(), out=buffer_RN)
        middle = time.perf_counter()
        torch.ops.mkldnn._linear_pointwise(queries_RH, weight, None, "none", [], "")
        seconds[False] = min(seconds[False], middle - begin)
        seconds[True] = min(seconds[True], time.perf_counter() - middle)
    # Its outputs are fresh memory each time, whose page faults a short trial may miss: ask for a clear win.
    return seconds[True] < 0.85 * seconds[False]
