"""The two passes of the CPU scoring engine: over a tile of scores while it is in cache, and over what survives it.

What the passes work on is grouped in named tuples of arrays, which numba takes apart when a pass is called. Buffers of
survivors hold, per row, every score seen so far that is >= the row's threshold.

Shapes: R rows of a tile, N its keys, V keys, H head dimensions, K top-k, B buffer capacity, P half the padded width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.scoring.cpu_compile import compiled
from qkatlas.pipeline.scoring.cpu_dots import canonical_dot
from qkatlas.pipeline.scoring.cpu_selection import drop_below, select_largest, sort_best_first
from qkatlas.pipeline.scoring.cpu_vectors import CHUNK, LINE, compare_chunk, count_bits, lowest_bit, prefetch
from qkatlas.pipeline.scoring.exact import Float32Array, Float64Array

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


class Keys(NamedTuple):
    """The keys, as they are.

    Attributes:
        keys_VH: float32, by token id.
        ids_V: int32 token id of each place in the order in which tiles hold the keys.
    """

    keys_VH: Float32Array
    ids_V: Int32Array


class Rows(NamedTuple):
    """The rows of a tile, as they are.

    Attributes:
        queries_RH: float32.
        row_ids_R: int64 token id of each row's own key.
        own_dot_R: float64 canonical dot product with it.
    """

    queries_RH: Float32Array
    row_ids_R: Int64Array
    own_dot_R: Float64Array


class Bounds(NamedTuple):
    """What is certain about the rows' float32 scores; `bound.RowFrame` in NumPy.

    Attributes:
        unit_R: float64; a score approximates (dot - offset) unit.
        offset_R: float64.
        low_R: float32; a score below it is surely not above the row's own key.
        high_R: float32; a score above it surely is.
        margin_R: float32, twice the row's error bound.
    """

    unit_R: Float64Array
    offset_R: Float64Array
    low_R: Float32Array
    high_R: Float32Array
    margin_R: Float32Array


class Survivors(NamedTuple):
    """The state of the rows between tiles.

    Attributes:
        threshold_R: float32; scores below it are not collected.
        above_R: int64, keys found to be above the row's own.
        fill_R: int64, entries in the row's buffer; -1 marks a row that is given up.
        scores_RB: float32, the buffers.
        places_RB: int32, the place of each entry's key in `Keys.ids_V`.
    """

    threshold_R: Float32Array
    above_R: Int64Array
    fill_R: Int64Array
    scores_RB: Float32Array
    places_RB: Int32Array


class Work(NamedTuple):
    """Work space of one thread, whose content means nothing between calls.

    Attributes:
        scratch_P: float64, of `canonical_dot`.
        dots_B: float64.
        ids_2B: int32 [2, B].
    """

    scratch_P: Float64Array
    dots_B: Float64Array
    ids_2B: Int32Array


class Best(NamedTuple):
    """Where the rows' best keys are written.

    Attributes:
        key_ids_RK: int32.
        scores_RK: float32.
        other_id_R: int32, best key other than the row's own.
        other_score_R: float32, its score.
        undecided_R: bool, rows of which nothing was written.
    """

    key_ids_RK: Int32Array
    scores_RK: Float32Array
    other_id_R: Int32Array
    other_score_R: Float32Array
    undecided_R: npt.NDArray[np.bool_]


@compiled
def scan_tile(  # type: ignore[no-untyped-def]
    tile_RN, keys, rows, bounds, survivors, work, first_place, wanted_at_first, kept
):
    """Take one tile of approximate scores into the rows' state.

    Counts scores surely above the own key's (> high), settles those in [low, high] by canonical dot products, and
    collects those >= the row's threshold. A full buffer keeps what can still be among the `kept` best, which proves a
    higher threshold; one that cannot be emptied so (ties) marks its row undecided with fill -1.

    Args:
        tile_RN: float32 scores of the keys at places `first_place` to `first_place` + N; N is at least CHUNK.
        keys: `Keys`.
        rows: `Rows`.
        bounds: `Bounds` of the same rows.
        survivors: `Survivors` of the same rows, changed.
        work: `Work`.
        first_place: place of the tile's first key.
        wanted_at_first: on the first tile, survivors needed to learn a threshold; 0 on later ones.
        kept: best keys of a row that must survive.
    """
    threshold_R, above_R, fill_R = survivors.threshold_R, survivors.above_R, survivors.fill_R
    scores_RB, places_RB = survivors.scores_RB, survivors.places_RB
    low_R, high_R, margin_R = bounds.low_R, bounds.high_R, bounds.margin_R
    queries_RH, own_dot_R = rows.queries_RH, rows.own_dot_R
    keys_VH, key_ids_V, scratch_P = keys.keys_VH, keys.ids_V, work.scratch_P
    count, columns = tile_RN.shape
    capacity = scores_RB.shape[1]
    one = np.uint64(1)
    chunks = (columns + CHUNK - 1) // CHUNK
    masks_C3 = np.empty((chunks, 3), np.uint64)
    for r in range(count):
        threshold = threshold_R[r]
        low = low_R[r]
        high = high_R[r]
        fill = fill_R[r]
        above = np.int64(0)
        row = tile_RN[r]
        # The next row's scores and buffer have left the nearest cache since they were written.
        following = min(r + 1, count - 1)
        prefetch(scores_RB, following, fill_R[following])
        prefetch(places_RB, following, fill_R[following])
        for chunk in range(chunks):
            start = min(chunk * CHUNK, columns - CHUNK)
            for column in range(start, start + CHUNK, LINE):
                prefetch(tile_RN, following, column)
            compare_chunk(row, start, low, high, threshold, masks_C3, chunk)
        for chunk in range(chunks):
            # A ragged end is read as the last whole chunk, less what was seen before.
            start = min(chunk * CHUNK, columns - CHUNK)
            fresh = ~np.uint64(0) << np.uint64(chunk * CHUNK - start)
            unsettled = masks_C3[chunk, 1] & fresh
            passing = masks_C3[chunk, 2] & fresh
            above += count_bits(masks_C3[chunk, 0] & fresh)
            while unsettled != 0:
                key_id = key_ids_V[first_place + start + lowest_bit(unsettled)]
                unsettled &= unsettled - one
                if canonical_dot(queries_RH, r, keys_VH, key_id, scratch_P) <= own_dot_R[r]:
                    above -= 1
            if passing != 0 and fill >= 0:
                if fill + CHUNK > capacity:
                    bound = select_largest(scores_RB, places_RB, r, fill, kept) - margin_R[r]
                    threshold = max(threshold, bound)
                    fill = drop_below(scores_RB, places_RB, r, fill, threshold)
                    if fill > capacity - capacity // 8:
                        fill = -1
                        threshold = np.float32(np.inf)
                        continue
                while passing != 0:
                    column = start + lowest_bit(passing)
                    passing &= passing - one
                    scores_RB[r, fill] = row[column]
                    places_RB[r, fill] = first_place + column
                    fill += 1
        if fill >= 0 and fill < wanted_at_first:
            # The guess from mean and deviation was too high for this row: start from all of the tile instead.
            fill = 0
            threshold = -np.float32(np.inf)
            for j in range(columns):
                scores_RB[r, fill] = row[j]
                places_RB[r, fill] = first_place + j
                fill += 1
        above_R[r] += above
        fill_R[r] = fill
        threshold_R[r] = threshold


@compiled
def tighten(survivors, wanted):  # type: ignore[no-untyped-def]
    """Raise each threshold to the row's `wanted`-th best score so far: a guess, verified by `finish`."""
    threshold_R, fill_R = survivors.threshold_R, survivors.fill_R
    scores_RB, places_RB = survivors.scores_RB, survivors.places_RB
    for r in range(fill_R.shape[0]):
        if fill_R[r] > wanted:
            guess = select_largest(scores_RB, places_RB, r, fill_R[r], wanted)
            if guess > threshold_R[r]:
                threshold_R[r] = guess
                fill_R[r] = drop_below(scores_RB, places_RB, r, fill_R[r], guess)


@compiled
def finish(keys, rows, bounds, survivors, work, best, kept, k, scale):  # type: ignore[no-untyped-def]
    """Rescore the survivors canonically and write each row's best keys; mark rows whose threshold proved too high.

    Every key of the true top `kept` has an approximate score >= (kept-th best approximate score) - margin. A row is
    undecided unless all such keys are in its buffer.

    Args:
        keys: `Keys`.
        rows: `Rows`.
        bounds: `Bounds` of the same rows.
        survivors: `Survivors` of the same rows after the last tile; left reordered.
        work: `Work`.
        best: `Best` of the same rows, written to.
        kept: best keys of a row to decide.
        k: how many of these to write, at most `kept`.
        scale: factor from dot product to score.

    Returns:
        The largest |approximate - canonical| seen, as a multiple of the row's error bound: above 1 means that the
        float32 product is less accurate than float32 arithmetic allows.
    """
    threshold_R, fill_R = survivors.threshold_R, survivors.fill_R
    scores_RB, places_RB = survivors.scores_RB, survivors.places_RB
    margin_R, unit_R, offset_R = bounds.margin_R, bounds.unit_R, bounds.offset_R
    queries_RH, row_ids_R = rows.queries_RH, rows.row_ids_R
    keys_VH, key_ids_V = keys.keys_VH, keys.ids_V
    scratch_P, dots_B, ids_2B = work.scratch_P, work.dots_B, work.ids_2B
    key_ids_RK, scores_RK = best.key_ids_RK, best.scores_RK
    other_id_R, other_score_R, undecided_R = best.other_id_R, best.other_score_R, best.undecided_R
    worst = 0.0
    count = fill_R.shape[0]
    found_2 = np.zeros(2, np.int64)
    for step in range(count + 1):
        # One row ahead: choose its candidates and ask for their keys, which lie scattered over memory.
        if step < count:
            r = step
            found = 0
            if fill_R[r] >= kept:
                bound = select_largest(scores_RB, places_RB, r, fill_R[r], kept) - margin_R[r]
                if bound >= threshold_R[r]:
                    found = drop_below(scores_RB, places_RB, r, fill_R[r], bound)
                    for i in range(found):
                        ids_2B[r % 2, i] = key_ids_V[places_RB[r, i]]
                        for column in range(0, keys_VH.shape[1], LINE):
                            prefetch(keys_VH, ids_2B[r % 2, i], column)
            undecided_R[r] = found == 0
            found_2[r % 2] = found
        r = step - 1
        if r < 0 or undecided_R[r]:
            continue
        ids_B = ids_2B[r % 2]
        found = found_2[r % 2]
        half_margin = 0.5 * np.float64(margin_R[r])
        for i in range(found):
            dot = canonical_dot(queries_RH, r, keys_VH, ids_B[i], scratch_P)
            error = abs(np.float64(scores_RB[r, i]) - (dot - offset_R[r]) * unit_R[r])
            worst = max(worst, error / half_margin)
            dots_B[i] = dot
        sort_best_first(dots_B, ids_B, found)
        for i in range(k):
            key_ids_RK[r, i] = ids_B[i]
            scores_RK[r, i] = np.float32(dots_B[i] * scale)
        if kept > 1:
            other = 1 if ids_B[0] == row_ids_R[r] else 0
            other_id_R[r] = ids_B[other]
            other_score_R[r] = np.float32(dots_B[other] * scale)
    return worst
