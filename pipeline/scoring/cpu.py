"""CPU implementation of the scoring engine: float32 tiles preselect, canonical float64 dot products decide.

Each worker thread takes tiles of query rows. For every tile of keys, held in a seeded random order, it calls a float32
matrix product into a buffer that stays in cache and makes one pass over it (`scoring_cpu_kernels`): count scores above
the own key's, keep survivors above a running threshold. The threshold is learnt from the tiles seen so far, as each is
a fair sample, and verified at the end; the few rows where the guess or the buffer failed are redone in float64. The
bound that makes preselection safe is in `scoring_bound`.

Shapes: R rows (queries), V keys, H head dimensions, K top-k, N keys of a tile, B capacity of a row's buffer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.scoring import cpu_kernels as kernels
from qkatlas.pipeline.scoring import exact as scoring_exact
from qkatlas.pipeline.scoring.bound import frame_rows, key_scale
from qkatlas.pipeline.scoring.cpu_moments import row_moments
from qkatlas.pipeline.scoring.exact import Float32Array, Float64Array

if TYPE_CHECKING:
    from qkatlas.pipeline.scoring.engine import PreparedKeys, RowScores

ROW_TILE = 512
KEY_TILE = 1024
PACKED_BYTES = 80 << 20
BUFFER_BYTES = 8 << 20
FIRST_GUESS_Z = 1.9
# Dense rows cost V float64 dot products each: worth it where selection would keep most keys anyway.
DENSE_KEYS = 256


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sizes of the work; they change the time taken, never a result.

    Attributes:
        rows: query rows of a tile.
        keys: keys of a tile.
        dense: score every row in float64 outright.
        packed_bytes: bytes of prepared keys to hold; beyond it tiles are made when needed.
    """

    rows: int = ROW_TILE
    keys: int = KEY_TILE
    dense: bool = False
    packed_bytes: int = PACKED_BYTES


class PackedKeys:
    """Centred, scaled keys in a seeded random order, cut into tiles for the float32 product."""

    def __init__(self, keys: PreparedKeys, tiling: Tiling) -> None:
        self._keys_VH = keys.keys_VH
        count, self._width = keys.keys_VH.shape
        # In a random order every tile is a fair sample of the vocabulary, so thresholds can be learnt from the first.
        self.ids_V = np.random.default_rng(0).permutation(count).astype(np.int32)
        self.tiles = tile_bounds(count, tiling.keys)
        self.scale = key_scale(keys.keys_VH, keys.moments.mean_H.numpy())
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


class _Worker:
    """One thread's buffers and its pass over tiles of rows."""

    def __init__(self, keys: PreparedKeys, packed: PackedKeys, out: RowScores, scale: float, tiling: Tiling) -> None:
        self._keys = keys
        self._packed = packed
        self._out = out
        self._scale = scale
        self._tiling = tiling
        self._kept = min(max(out.key_ids_RK.shape[1], 2), keys.vocabulary_size)
        self._capacity = buffer_capacity(self._kept, tiling)
        self._scores_RB = np.empty((tiling.rows, self._capacity), np.float32)
        self._places_RB = np.empty((tiling.rows, self._capacity), np.int32)
        self._dots_B = np.empty(self._capacity)
        self._ids_2B = np.empty((2, self._capacity), np.int32)
        self._scratch_P = make_scratch(keys.head_dim)
        self._tile = torch.empty(tiling.rows * (tiling.keys + kernels.CHUNK))

    def score(self, queries_RH: Float32Array, row_ids_R: npt.NDArray[np.int64], rows: slice) -> None:
        """Score the rows of one tile and write them to the result."""
        keys, packed, out = self._keys, self._packed, self._out
        queries_RH, row_ids_R = queries_RH[rows], row_ids_R[rows]
        count = len(queries_RH)
        queries = torch.from_numpy(queries_RH)
        mean_R, std_R = row_moments(queries_RH, keys.moments)
        own_dot_R = np.empty(count)
        kernels.own_dots(queries_RH, keys.keys_VH, row_ids_R, self._scratch_P, own_dot_R)
        frame = frame_rows(queries, torch.from_numpy(own_dot_R), torch.from_numpy(mean_R), packed.scale)
        unit_R, margin_R = frame.unit_R.numpy(), frame.margin_R.numpy()
        low_R, high_R = frame.low_R.numpy(), frame.high_R.numpy()
        threshold_R = (FIRST_GUESS_Z * std_R * unit_R).astype(np.float32)
        above_R = np.zeros(count, np.int64)
        fill_R = np.zeros(count, np.int64)
        undecided_R = np.zeros(count, np.bool_)

        next_look = 1
        for visited, (start, seen) in enumerate(packed.tiles, start=1):
            tile_RN = packed.product(frame.scaled_RH, visited - 1, self._tile)
            wanted = sample_rank(self._kept, seen, keys.vocabulary_size)
            kernels.scan_tile(
                tile_RN.numpy(), start, min(wanted, seen) if visited == 1 else 0, self._kept,
                threshold_R, low_R, high_R, margin_R, above_R, fill_R, self._scores_RB, self._places_RB,
                queries_RH, keys.keys_VH, packed.ids_V, own_dot_R, self._scratch_P,
            )  # fmt: skip
            if visited == next_look:
                kernels.tighten(wanted, threshold_R, fill_R, self._scores_RB, self._places_RB)
                next_look *= 4
        worst = kernels.finish(
            self._kept, self._scale, threshold_R, margin_R, unit_R, mean_R, fill_R, self._scores_RB, self._places_RB,
            queries_RH, keys.keys_VH, packed.ids_V, row_ids_R, self._scratch_P, self._dots_B, self._ids_2B,
            out.key_ids_RK[rows], out.scores_RK[rows], _plain(out.best_other_id_R)[rows],
            _plain(out.best_other_score_R)[rows], undecided_R,
        )  # fmt: skip
        if worst > 1:
            raise RuntimeError(
                f"the float32 matrix product is off by {worst:.3g} times the bound of float32 arithmetic; "
                "call torch.set_float32_matmul_precision('highest')"
            )
        out.self_rank_R[rows] = above_R + 1
        with np.errstate(over="ignore"):
            out.self_score_R[rows] = own_dot_R * self._scale
            out.row_mean_R[rows] = mean_R * self._scale
            out.row_std_R[rows] = std_R * self._scale
        for row in np.flatnonzero(undecided_R):
            _score_dense_row(queries_RH, int(row), row_ids_R, keys, out, rows.start + int(row), self._scale)


class _DenseWorker:
    """One thread's pass in float64 throughout: for small vocabularies and for k near V."""

    def __init__(self, keys: PreparedKeys, out: RowScores, scale: float) -> None:
        self._keys = keys
        self._out = out
        self._scale = scale

    def score(self, queries_RH: Float32Array, row_ids_R: npt.NDArray[np.int64], rows: slice) -> None:
        """Score the rows of one tile and write them to the result."""
        mean_R, std_R = row_moments(queries_RH[rows], self._keys.moments)
        self._out.row_mean_R[rows] = mean_R * self._scale
        self._out.row_std_R[rows] = std_R * self._scale
        for row in range(rows.start, rows.stop):
            _score_dense_row(queries_RH, row, row_ids_R, self._keys, self._out, row, self._scale)


def score(
    queries_RH: Float32Array,
    keys: PreparedKeys,
    row_ids_R: npt.NDArray[np.int64],
    out: RowScores,
    scale: float,
    threads: int,
    tiling: Tiling | None = None,
) -> None:
    """Fill `out` with the scores of the query rows; arguments as checked by `scoring.score_rows`."""
    kept = min(max(out.key_ids_RK.shape[1], 2), keys.vocabulary_size)
    tiling = tiling or choose_tiling(kept, keys.vocabulary_size)
    rows = [slice(start, min(start + tiling.rows, len(queries_RH))) for start in range(0, len(queries_RH), tiling.rows)]
    threads = min(threads, len(rows))
    if threads == 0:
        return
    with single_threaded_torch():
        # The packing does not depend on the tile's rows: one copy serves every k.
        packed = None if tiling.dense else keys.packed(replace(tiling, rows=ROW_TILE), PackedKeys)
        local = threading.local()

        def run(part: slice) -> None:
            if not hasattr(local, "worker"):
                torch.set_num_threads(1)
                local.worker = (
                    _DenseWorker(keys, out, scale) if packed is None else _Worker(keys, packed, out, scale, tiling)
                )
            local.worker.score(queries_RH, row_ids_R, part)

        if threads == 1:
            for part in rows:
                run(part)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, rows))


def choose_tiling(kept: int, vocabulary_size: int) -> Tiling:
    """Return tile sizes for keeping `kept` of `vocabulary_size` keys a row."""
    if vocabulary_size <= DENSE_KEYS or 4 * kept > vocabulary_size:
        return Tiling(rows=64, dense=True)
    rows = BUFFER_BYTES // (8 * buffer_capacity(kept, Tiling()))
    return Tiling(rows=max(1, min(ROW_TILE, rows)))


def tile_bounds(vocabulary_size: int, tile_keys: int) -> list[tuple[int, int]]:
    """Cut the permuted keys into [start, stop) tiles, none shorter than the kernels' chunk."""
    starts = list(range(0, vocabulary_size, tile_keys))
    if len(starts) > 1 and vocabulary_size - starts[-1] < kernels.CHUNK:
        starts.pop()
    return list(zip(starts, [*starts[1:], vocabulary_size], strict=True))


def buffer_capacity(kept: int, tiling: Tiling) -> int:
    """Return how many survivors a row's buffer holds: a whole tile, and twice what is kept."""
    return max(2 * kept + 512, tiling.keys + 2 * kernels.CHUNK)


def sample_rank(kept: int, seen: int, vocabulary_size: int) -> int:
    """Return the rank, among `seen` of the keys, that the overall `kept`-th best is expected not to fall below.

    The number of the `kept` best among a random sample is hypergeometric; 4.5 standard deviations and 4 more leave
    about one row in a million whose threshold is too high. Such rows are found by the final check and redone.
    """
    share = seen / vocabulary_size
    expected = kept * share
    return math.ceil(expected + 4.5 * math.sqrt(expected * (1 - share)) + 4)


def make_scratch(head_dim: int) -> Float64Array:
    """Return the work space of `canonical_dot`: half the padded width."""
    return np.zeros(max(1, scoring_exact.power_of_two_at_least(head_dim) // 2))


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Run torch on one thread within, as each worker thread calls it on its own; restores the caller's setting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _score_dense_row(
    queries_RH: Float32Array,
    index: int,
    row_ids_R: npt.NDArray[np.int64],
    keys: PreparedKeys,
    out: RowScores,
    row: int,
    scale: float,
) -> None:
    own = int(row_ids_R[index])
    dots_V = np.empty(keys.vocabulary_size)
    kernels.canonical_row(queries_RH, index, keys.keys_VH, make_scratch(keys.head_dim), dots_V)
    k = out.key_ids_RK.shape[1]
    kept = min(max(k, 2), len(dots_V))
    least = np.partition(dots_V, len(dots_V) - kept)[len(dots_V) - kept]
    candidates = np.flatnonzero(dots_V >= least)
    order = candidates[np.lexsort((candidates, -dots_V[candidates]))][:kept]
    with np.errstate(over="ignore"):
        out.key_ids_RK[row] = order[:k]
        out.scores_RK[row] = dots_V[order[:k]] * scale
        out.self_score_R[row] = dots_V[own] * scale
        out.self_rank_R[row] = 1 + np.count_nonzero(dots_V > dots_V[own])
        others = order[order != own]
        if others.size:
            out.best_other_id_R[row] = others[0]
            out.best_other_score_R[row] = dots_V[others[0]] * scale


def _plain(column: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.ma.getdata(column)


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
