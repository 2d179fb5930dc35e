"""CPU implementation of the scoring engine: float32 tiles preselect, canonical float64 dot products decide.

Each worker thread takes tiles of query rows. For every tile of keys, held in a seeded random order, it calls a float32
matrix product into a buffer that stays in cache and makes one pass over it (`cpu_kernels`): count scores above
the own key's, keep survivors above a running threshold. The threshold is learnt from the tiles seen so far, as each is
a fair sample, and verified at the end; the few rows where the guess or the buffer failed are redone in float64. The
bound that makes preselection safe is in `bound`.

Shapes: R rows (queries), V keys, H head dimensions, K top-k, N keys of a tile, B capacity of a row's buffer.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.scoring import cpu_kernels as kernels
from qkatlas.pipeline.scoring.bound import frame_rows, key_scale, refuse_imprecise
from qkatlas.pipeline.scoring.cpu_dots import canonical_row, make_scratch, own_dots
from qkatlas.pipeline.scoring.cpu_moments import row_moments
from qkatlas.pipeline.scoring.cpu_vectors import CHUNK
from qkatlas.pipeline.scoring.exact import Float32Array
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.threads import single_threaded_torch

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
        self.ids_V = streams.KEY_ORDER.generator(0).permutation(count).astype(np.int32)
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

    def __init__(
        self, keys: PreparedKeys, packed: PackedKeys, out: RowScores, *, k: int, scale: float, tiling: Tiling
    ) -> None:
        self._keys = keys
        self._packed = packed
        self._out = out
        self._k = k
        self._scale = scale
        self._kept = keys.decided(k)
        self._kernel_keys = kernels.Keys(keys_VH=keys.keys_VH, ids_V=packed.ids_V)
        capacity = buffer_capacity(self._kept, tiling)
        self._scores_RB = np.empty((tiling.rows, capacity), np.float32)
        self._places_RB = np.empty((tiling.rows, capacity), np.int32)
        self._work = kernels.Work(
            scratch_P=make_scratch(keys.head_dim), dots_B=np.empty(capacity), ids_2B=np.empty((2, capacity), np.int32)
        )
        self._tile = torch.empty(tiling.rows * (tiling.keys + CHUNK))

    def score(self, queries_RH: Float32Array, row_ids_R: npt.NDArray[np.int64], rows: slice) -> None:
        """Score the rows of one tile and write them to the result."""
        keys, packed, out = self._keys, self._packed, self._out
        tile_RH, tile_ids_R = queries_RH[rows], row_ids_R[rows]
        count = len(tile_RH)
        mean_R, std_R = row_moments(tile_RH, keys.moments)
        own_dot_R = np.empty(count)
        own_dots(tile_RH, keys.keys_VH, tile_ids_R, self._work.scratch_P, own_dot_R)
        frame = frame_rows(
            torch.from_numpy(tile_RH), torch.from_numpy(own_dot_R), torch.from_numpy(mean_R), packed.scale
        )
        unit_R = frame.unit_R.numpy()
        bounds = kernels.Bounds(
            unit_R=unit_R,
            offset_R=mean_R,
            low_R=frame.low_R.numpy(),
            high_R=frame.high_R.numpy(),
            margin_R=frame.margin_R.numpy(),
        )
        survivors = kernels.Survivors(
            threshold_R=(FIRST_GUESS_Z * std_R * unit_R).astype(np.float32),
            above_R=np.zeros(count, np.int64),
            fill_R=np.zeros(count, np.int64),
            scores_RB=self._scores_RB,
            places_RB=self._places_RB,
        )
        best = kernels.Best(
            key_ids_RK=out.key_ids_RK[rows],
            scores_RK=out.scores_RK[rows],
            other_id_R=np.ma.getdata(out.best_other_id_R)[rows],
            other_score_R=np.ma.getdata(out.best_other_score_R)[rows],
            undecided_R=np.zeros(count, np.bool_),
        )
        own = kernels.Rows(queries_RH=tile_RH, row_ids_R=tile_ids_R, own_dot_R=own_dot_R)
        self._scan(frame.scaled_RH, own, bounds, survivors)
        worst = kernels.finish(
            self._kernel_keys, own, bounds, survivors, self._work, best, kept=self._kept, k=self._k, scale=self._scale
        )
        refuse_imprecise(worst)
        out.self_rank_R[rows] = survivors.above_R + 1
        with np.errstate(over="ignore"):
            out.self_score_R[rows] = own_dot_R * self._scale
            out.row_mean_R[rows] = mean_R * self._scale
            out.row_std_R[rows] = std_R * self._scale
        for row in rows.start + np.flatnonzero(best.undecided_R):
            _score_dense_row(queries_RH, row_ids_R, int(row), keys, out, k=self._k, scale=self._scale)

    def _scan(
        self, scaled_RH: torch.Tensor, rows: kernels.Rows, bounds: kernels.Bounds, survivors: kernels.Survivors
    ) -> None:
        """Take all tiles of keys into the rows' state, learning thresholds on the way."""
        next_look = 1
        for visited, (start, seen) in enumerate(self._packed.tiles, start=1):
            tile_RN = self._packed.product(scaled_RH, visited - 1, self._tile)
            wanted = sample_rank(self._kept, seen, self._keys.vocabulary_size)
            kernels.scan_tile(
                tile_RN.numpy(),
                self._kernel_keys,
                rows,
                bounds,
                survivors,
                self._work,
                first_place=start,
                wanted_at_first=min(wanted, seen) if visited == 1 else 0,
                kept=self._kept,
            )
            if visited == next_look:
                kernels.tighten(survivors, wanted=wanted)
                next_look *= 4


class _DenseWorker:
    """One thread's pass in float64 throughout: for small vocabularies and for k near V."""

    def __init__(self, keys: PreparedKeys, out: RowScores, *, k: int, scale: float) -> None:
        self._keys = keys
        self._out = out
        self._k = k
        self._scale = scale

    def score(self, queries_RH: Float32Array, row_ids_R: npt.NDArray[np.int64], rows: slice) -> None:
        """Score the rows of one tile and write them to the result."""
        mean_R, std_R = row_moments(queries_RH[rows], self._keys.moments)
        self._out.row_mean_R[rows] = mean_R * self._scale
        self._out.row_std_R[rows] = std_R * self._scale
        for row in range(rows.start, rows.stop):
            _score_dense_row(queries_RH, row_ids_R, row, self._keys, self._out, k=self._k, scale=self._scale)


def score(
    queries_RH: Float32Array,
    keys: PreparedKeys,
    row_ids_R: npt.NDArray[np.int64],
    out: RowScores,
    *,
    k: int,
    scale: float,
    threads: int,
    tiling: Tiling | None = None,
) -> None:
    """Fill `out` with the scores of the query rows; arguments as checked by `engine.score_rows`."""
    tiling = tiling or choose_tiling(keys.decided(k), keys.vocabulary_size)
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
                if packed is None:
                    local.worker = _DenseWorker(keys, out, k=k, scale=scale)
                else:
                    local.worker = _Worker(keys, packed, out, k=k, scale=scale, tiling=tiling)
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
    if len(starts) > 1 and vocabulary_size - starts[-1] < CHUNK:
        starts.pop()
    return list(zip(starts, [*starts[1:], vocabulary_size], strict=True))


def buffer_capacity(kept: int, tiling: Tiling) -> int:
    """Return how many survivors a row's buffer holds: a whole tile, and twice what is kept."""
    return max(2 * kept + 512, tiling.keys + 2 * CHUNK)


def sample_rank(kept: int, seen: int, vocabulary_size: int) -> int:
    """Return the rank, among `seen` of the keys, that the overall `kept`-th best is expected not to fall below.

    The number of the `kept` best among a random sample is hypergeometric; 4.5 standard deviations and 4 more leave
    about one row in a million whose threshold is too high. Such rows are found by the final check and redone.
    """
    share = seen / vocabulary_size
    expected = kept * share
    return math.ceil(expected + 4.5 * math.sqrt(expected * (1 - share)) + 4)


def _score_dense_row(
    queries_RH: Float32Array,
    row_ids_R: npt.NDArray[np.int64],
    row: int,
    keys: PreparedKeys,
    out: RowScores,
    *,
    k: int,
    scale: float,
) -> None:
    """Score one row against every key in float64 and write what is kept of it, the moments excepted."""
    own = int(row_ids_R[row])
    dots_V = np.empty(keys.vocabulary_size)
    canonical_row(queries_RH, row, keys.keys_VH, make_scratch(keys.head_dim), dots_V)
    kept = keys.decided(k)
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
