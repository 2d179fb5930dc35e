"""CPU implementation of the scoring engine: tiles in low precision preselect, canonical float64 dot products decide.

Each worker thread takes tiles of query rows. For every tile of keys, held in a seeded random order, it makes one pass
over scores that stay in cache (`cpu_scan`): count scores above the own key's, keep survivors above a running threshold.
The threshold is learnt from the tiles seen so far, as each is a fair sample, and verified at the end; the few rows
where the guess or the buffer failed are redone in float64.

The scores are sums of 16-bit integers (`cpu_int16`) where the processor has instructions for them, else a float32
matrix product's. Their bounds, which make preselection safe, are in `cpu_rounding` and `bound`. Integers resolve less:
where too much is left open (a key a thousand times longer than the rest, rows that are nearly one), float32 takes over.

Shapes: R rows (queries), V keys, H head dimensions, K top-k, N keys of a tile, B capacity of a row's buffer.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from qkatlas.pipeline.scoring import cpu_kernels as kernels
from qkatlas.pipeline.scoring import cpu_scan
from qkatlas.pipeline.scoring.bound import frame_rows, refuse_imprecise
from qkatlas.pipeline.scoring.cpu_dots import canonical_row, make_scratch, own_dots
from qkatlas.pipeline.scoring.cpu_float32 import packed_keys
from qkatlas.pipeline.scoring.cpu_int16 import rounded_keys, too_coarse
from qkatlas.pipeline.scoring.cpu_integers import ROWS
from qkatlas.pipeline.scoring.cpu_kernels import Int64Array
from qkatlas.pipeline.scoring.cpu_moments import row_moments
from qkatlas.pipeline.scoring.cpu_tiling import Tiling, buffer_capacity, choose_tiling, key_order, sample_rank
from qkatlas.pipeline.scoring.cpu_vectors import CHUNK
from qkatlas.pipeline.scoring.exact import Float32Array, Float64Array
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores
from qkatlas.pipeline.threads import single_threaded_torch

FIRST_GUESS_Z = 1.9
OPEN_ENTRIES = 4096
SAMPLE_KEYS = 256
# Integers are given up for a call whose rows leave more comparisons open than this, each, or more undecided rows.
OPEN_OF_ROW = 1000
UNDECIDED_SHARE = 1 / 16


class _Worker:
    """One thread's buffers and its pass over tiles of rows."""

    def __init__(self, keys: PreparedKeys, out: RowScores, *, k: int, scale: float, tiling: Tiling) -> None:
        self._keys = keys
        self._out = out
        self._k = k
        self._scale = scale
        self._tiling = tiling
        self._kept = keys.decided(k)
        self._integers = rounded_keys(keys, tiling)
        self._float32 = None if self._integers else packed_keys(keys, tiling)
        self._kernel_keys = kernels.Keys(keys_VH=keys.keys_VH, ids_V=key_order(keys.vocabulary_size))
        capacity = buffer_capacity(self._kept, tiling)
        self._scores_RB = np.empty((tiling.rows, capacity), np.float32)
        self._places_RB = np.empty((tiling.rows, capacity), np.int32)
        self._work = kernels.Work(
            scratch_P=make_scratch(keys.head_dim),
            dots_B=np.empty(capacity),
            ids_2B=np.empty((2, capacity), np.int32),
            open_2U=np.empty((2, OPEN_ENTRIES), np.int32),
        )
        self._tile = torch.empty(tiling.rows * (tiling.keys + CHUNK))

    def score(self, queries_RH: Float32Array, row_ids_R: Int64Array | None, rows: slice) -> None:
        """Score the rows of one tile and write them to the result; without own keys the best keys alone."""
        keys, out = self._keys, self._out
        tile_RH = queries_RH[rows]
        count = len(tile_RH)
        if row_ids_R is None:
            tile_ids_R, own_dot_R = np.full(count, -1), np.full(count, np.inf)
            mean_R, std_R = self._rough_moments(tile_RH)
        else:
            tile_ids_R, own_dot_R = row_ids_R[rows], np.empty(count)
            mean_R, std_R = row_moments(tile_RH, keys.moments)
            own_dots(tile_RH, keys.keys_VH, tile_ids_R, self._work.scratch_P, own_dot_R)
        best = kernels.Best(
            key_ids_RK=out.key_ids_RK[rows],
            scores_RK=out.scores_RK[rows],
            other_id_R=np.ma.getdata(out.best_other_id_R)[rows],
            other_score_R=np.ma.getdata(out.best_other_score_R)[rows],
            undecided_R=np.zeros(count, np.bool_),
        )
        own = kernels.Rows(queries_RH=tile_RH, row_ids_R=tile_ids_R, own_dot_R=own_dot_R)
        survivors = self._by_integers(own, best, mean_R, std_R)
        if survivors is None:
            survivors = self._by_float32(own, best, mean_R, std_R)
        if row_ids_R is not None:
            out.self_rank_R[rows] = survivors.above_R + 1
            with np.errstate(over="ignore"):
                out.self_score_R[rows] = own_dot_R * self._scale
                out.row_mean_R[rows] = mean_R * self._scale
                out.row_std_R[rows] = std_R * self._scale
        for row in rows.start + np.flatnonzero(best.undecided_R):
            _score_dense_row(queries_RH, row_ids_R, int(row), keys, out, k=self._k, scale=self._scale)

    def _rough_moments(self, tile_RH: Float32Array) -> tuple[Float64Array, Float64Array]:
        """Return q.mean, and a standard deviation from a sample of keys: it only guides where thresholds begin."""
        tile = torch.from_numpy(tile_RH).to(torch.float64)
        sample_SH = self._keys.keys_VH[self._kernel_keys.ids_V[:SAMPLE_KEYS]]
        scores_RS = tile @ torch.from_numpy(sample_SH).to(torch.float64).T
        return (tile @ self._keys.mean_H).numpy(), scores_RS.std(dim=1, correction=0).numpy()

    def _by_integers(
        self, rows: kernels.Rows, best: kernels.Best, mean_R: Float64Array, std_R: Float64Array
    ) -> kernels.Survivors | None:
        """Preselect in integers and decide; None where these leave too much open, and float32 has to do it anew."""
        integers = self._integers
        if integers is None:
            return None
        rounded, bounds = integers.round(rows.queries_RH, rows.own_dot_R, mean_R)
        if too_coarse(rounded, std_R):
            return None
        survivors = self._no_survivors(bounds, std_R)
        starts_T = np.array([start for start, _ in integers.tiles] + [self._keys.vocabulary_size])
        wanted_T, at_first = self._looks(integers.tiles)
        opened = 0
        for packed, tiles in integers.parts():
            opened += cpu_scan.scan_integers(
                rounded,
                packed,
                starts_T[tiles.start : tiles.stop + 1],
                wanted_T[tiles],
                at_first if tiles.start == 0 else 0,
                self._kernel_keys,
                rows,
                bounds,
                survivors,
                self._work,
                kept=self._kept,
            )
        worst = self._finish(rows, bounds, survivors, best)
        assert worst <= 1, f"integer sums are off by {worst:.3g} times their bound"
        undecided = np.count_nonzero(best.undecided_R) > UNDECIDED_SHARE * len(mean_R)
        if undecided or opened > OPEN_OF_ROW * len(mean_R):
            self._integers = None
        return None if undecided else survivors

    def _by_float32(
        self, rows: kernels.Rows, best: kernels.Best, mean_R: Float64Array, std_R: Float64Array
    ) -> kernels.Survivors:
        """Preselect in float32 and decide."""
        if self._float32 is None:
            self._float32 = packed_keys(self._keys, self._tiling)
        packed = self._float32
        frame = frame_rows(
            torch.from_numpy(rows.queries_RH), torch.from_numpy(rows.own_dot_R), torch.from_numpy(mean_R), packed.scale
        )
        bounds = kernels.Bounds(
            unit_R=frame.unit_R.numpy(),
            offset_R=mean_R,
            low_R=frame.low_R.numpy(),
            high_R=frame.high_R.numpy(),
            margin_R=frame.margin_R.numpy(),
        )
        survivors = self._no_survivors(bounds, std_R)
        wanted_T, at_first = self._looks(packed.tiles)
        for number, (start, _) in enumerate(packed.tiles):
            cpu_scan.scan_tile(
                packed.product(frame.scaled_RH, number, self._tile).numpy(),
                self._kernel_keys,
                rows,
                bounds,
                survivors,
                self._work,
                first_place=start,
                wanted_at_first=at_first if number == 0 else 0,
                kept=self._kept,
            )
            if wanted_T[number]:
                kernels.tighten(survivors, bounds, wanted_T[number])
        refuse_imprecise(self._finish(rows, bounds, survivors, best))
        return survivors

    def _no_survivors(self, bounds: kernels.Bounds, std_R: Float64Array) -> kernels.Survivors:
        """The rows' state in front of the first tile, with a threshold that ordinary rows start well from."""
        with np.errstate(over="ignore"):
            threshold_R = (FIRST_GUESS_Z * std_R * bounds.unit_R).astype(np.float32) - bounds.margin_R
        return kernels.Survivors(
            threshold_R=threshold_R,
            above_R=np.zeros(len(std_R), np.int64),
            fill_R=np.zeros(len(std_R), np.int64),
            scores_RB=self._scores_RB,
            places_RB=self._places_RB,
        )

    def _looks(self, tiles: list[tuple[int, int]]) -> tuple[Int64Array, int]:
        """Return the rank to tighten thresholds to after each tile, 0 where not, and survivors needed of the first."""
        wanted_T = np.zeros(len(tiles), np.int64)
        look = 1
        while look <= len(tiles):
            wanted_T[look - 1] = sample_rank(self._kept, tiles[look - 1][1], self._keys.vocabulary_size)
            look *= 4
        return wanted_T, int(min(wanted_T[0], tiles[0][1]))

    def _finish(
        self, rows: kernels.Rows, bounds: kernels.Bounds, survivors: kernels.Survivors, best: kernels.Best
    ) -> float:
        worst: float = kernels.finish(
            self._kernel_keys, rows, bounds, survivors, self._work, best, kept=self._kept, k=self._k, scale=self._scale
        )
        return worst


class _DenseWorker:
    """One thread's pass in float64 throughout: for small vocabularies and for k near V."""

    def __init__(self, keys: PreparedKeys, out: RowScores, *, k: int, scale: float) -> None:
        self._keys = keys
        self._out = out
        self._k = k
        self._scale = scale

    def score(self, queries_RH: Float32Array, row_ids_R: Int64Array | None, rows: slice) -> None:
        """Score the rows of one tile and write them to the result; without own keys the best keys alone."""
        if row_ids_R is not None:
            mean_R, std_R = row_moments(queries_RH[rows], self._keys.moments)
            self._out.row_mean_R[rows] = mean_R * self._scale
            self._out.row_std_R[rows] = std_R * self._scale
        for row in range(rows.start, rows.stop):
            _score_dense_row(queries_RH, row_ids_R, row, self._keys, self._out, k=self._k, scale=self._scale)


def score(
    queries_RH: Float32Array,
    keys: PreparedKeys,
    row_ids_R: Int64Array | None,
    out: RowScores,
    *,
    k: int,
    scale: float,
    threads: int,
    tiling: Tiling | None = None,
) -> None:
    """Fill `out` with the scores of the query rows; arguments as checked by `engine.score_rows`.

    Without `row_ids_R` only `key_ids_RK` and `scores_RK` are filled.
    """
    tiling = tiling or choose_tiling(keys.decided(k), keys.vocabulary_size)
    # Whole blocks of rows, where that is more than one.
    step = max(tiling.rows - tiling.rows % ROWS, min(tiling.rows, ROWS)) if tiling.integers else tiling.rows
    rows = [slice(start, min(start + step, len(queries_RH))) for start in range(0, len(queries_RH), step)]
    threads = min(threads, len(rows))
    if threads == 0:
        return
    if row_ids_R is not None:
        keys.moments  # noqa: B018  computed here, where torch has all threads
    with single_threaded_torch():
        local = threading.local()

        def run(part: slice) -> None:
            if not hasattr(local, "worker"):
                torch.set_num_threads(1)
                if tiling.dense:
                    local.worker = _DenseWorker(keys, out, k=k, scale=scale)
                else:
                    local.worker = _Worker(keys, out, k=k, scale=scale, tiling=tiling)
            local.worker.score(queries_RH, row_ids_R, part)

        if threads == 1:
            for part in rows:
                run(part)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, rows))


def _score_dense_row(
    queries_RH: Float32Array,
    row_ids_R: Int64Array | None,
    row: int,
    keys: PreparedKeys,
    out: RowScores,
    *,
    k: int,
    scale: float,
) -> None:
    """Score one row against every key in float64 and write what is kept of it, the moments excepted."""
    dots_V = np.empty(keys.vocabulary_size)
    canonical_row(queries_RH, row, keys.keys_VH, make_scratch(keys.head_dim), dots_V)
    kept = keys.decided(k)
    least = np.partition(dots_V, len(dots_V) - kept)[len(dots_V) - kept]
    candidates = np.flatnonzero(dots_V >= least)
    order = candidates[np.lexsort((candidates, -dots_V[candidates]))][:kept]
    with np.errstate(over="ignore"):
        out.key_ids_RK[row] = order[:k]
        out.scores_RK[row] = dots_V[order[:k]] * scale
        if row_ids_R is None:
            return
        own = int(row_ids_R[row])
        out.self_score_R[row] = dots_V[own] * scale
        out.self_rank_R[row] = 1 + np.count_nonzero(dots_V > dots_V[own])
        others = order[order != own]
        if others.size:
            out.best_other_id_R[row] = others[0]
            out.best_other_score_R[row] = dots_V[others[0]] * scale
