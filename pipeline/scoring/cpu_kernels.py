"""The state of a tile of rows on CPU between tiles of keys, and the pass over what survives them all.

What the passes work on is grouped in named tuples of arrays, which numba takes apart when a pass is called. Buffers of
survivors hold, per row, every score seen so far that is >= the row's threshold. `cpu_scan` fills them.

Shapes: R rows of a tile, V keys, H head dimensions, K top-k, B buffer capacity, P half the padded width, U open
comparisons.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.scoring.cpu_compile import compiled
from qkatlas.pipeline.scoring.cpu_dots import canonical_dot
from qkatlas.pipeline.scoring.cpu_selection import drop_below, select_largest, sort_best_first
from qkatlas.pipeline.scoring.cpu_vectors import LINE, prefetch
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
        open_2U: int32 [2, U], row and key id of comparisons with a row's own key that float64 has to make.
    """

    scratch_P: Float64Array
    dots_B: Float64Array
    ids_2B: Int32Array
    open_2U: Int32Array


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
def tighten(survivors, bounds, wanted):  # type: ignore[no-untyped-def]
    """Raise each threshold to the row's `wanted`-th best score so far less its margin: a guess, verified by `finish`.

    Less its margin, because `finish` asks for all keys within the margin of the last one that is kept.
    """
    threshold_R, fill_R = survivors.threshold_R, survivors.fill_R
    scores_RB, places_RB = survivors.scores_RB, survivors.places_RB
    for r in range(fill_R.shape[0]):
        if fill_R[r] > wanted:
            guess = select_largest(scores_RB, places_RB, r, fill_R[r], wanted) - bounds.margin_R[r]
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
