"""The pass of the CPU scoring engine over a tile of scores while it is in cache: count, list, collect.

The scores come from a float32 product (`scan_tile`) or are made from integers on the way (`scan_integers`).

Shapes: R rows of a tile, N its keys, C chunks of these.
"""

from __future__ import annotations

import numpy as np

from qkatlas.pipeline.scoring.cpu_compile import compiled
from qkatlas.pipeline.scoring.cpu_dots import canonical_dot
from qkatlas.pipeline.scoring.cpu_integers import ROWS, compare_products
from qkatlas.pipeline.scoring.cpu_kernels import tighten
from qkatlas.pipeline.scoring.cpu_rounding import integer_at_most
from qkatlas.pipeline.scoring.cpu_selection import drop_below, select_largest
from qkatlas.pipeline.scoring.cpu_vectors import CHUNK, LINE, compare_chunk, count_bits, lowest_bit, prefetch


@compiled
def settle(keys, rows, survivors, work, waiting):  # type: ignore[no-untyped-def]
    """Take back from `above_R` the waiting keys that are not above the row's own; return how many waited."""
    for i in range(waiting):
        r = work.open_2U[0, i]
        dot = canonical_dot(rows.queries_RH, r, keys.keys_VH, work.open_2U[1, i], work.scratch_P)
        # No branch, which half the time would be mispredicted, and only after the key has come.
        survivors.above_R[r] -= np.int64(dot <= rows.own_dot_R[r])
    return waiting


@compiled
def _take_rows(  # type: ignore[no-untyped-def]
    first,
    stop,
    offset,
    scores_RN,
    masks_RC3,
    keys,
    rows,
    bounds,
    survivors,
    work,
    waiting,
    place,
    columns,
    end,
    at_first,
    kept,
):
    """Take rows of a tile into their state, as their masks say: scores >= low, in [low, high], >= threshold.

    Args:
        first: the first row, which masks begin with.
        stop: the row behind the last.
        offset: the row that scores begin with.
        scores_RN: float32 or int32.
        masks_RC3: uint64, of each chunk; of 64 chunks at most.
        keys: as for `scan_tile`.
        rows: likewise.
        bounds: likewise.
        survivors: likewise.
        work: likewise.
        waiting: entries in `work.open_2U`.
        place: of the tile's first key.
        columns: N.
        end: where the last chunk starts; a ragged one may be read as the last whole one, less what was seen before.
        at_first: as `wanted_at_first` of `scan_tile`.
        kept: as for `scan_tile`.

    Returns:
        How many comparisons with rows' own keys wait now, and how many were settled on the way.
    """
    scores_RB, places_RB, open_2U = survivors.scores_RB, survivors.places_RB, work.open_2U
    keys_VH, key_ids_V = keys.keys_VH, keys.ids_V
    above_R, threshold_R, fill_R = survivors.above_R, survivors.threshold_R, survivors.fill_R
    margin_R = bounds.margin_R
    capacity = scores_RB.shape[1]
    width = keys_VH.shape[1]
    chunks = masks_RC3.shape[1]
    one = np.uint64(1)
    fresh = ~np.uint64(0) << np.uint64((chunks - 1) * CHUNK - end)
    settled = 0
    for r in range(first, stop):
        for mask in range(3):
            masks_RC3[r - first, chunks - 1, mask] &= fresh
        # Few chunks hold more than keys to count: find them without a branch on each.
        above = np.int64(0)
        eventful = np.uint64(0)
        for chunk in range(chunks):
            above += count_bits(masks_RC3[r - first, chunk, 0])
            event = np.uint64((masks_RC3[r - first, chunk, 1] | masks_RC3[r - first, chunk, 2]) != 0)
            eventful |= event << np.uint64(chunk)
        above_R[r] += above
        threshold = threshold_R[r]
        fill = fill_R[r]
        while eventful != 0:
            chunk = lowest_bit(eventful)
            eventful &= eventful - one
            start = min(chunk * CHUNK, end)
            unsettled = masks_RC3[r - first, chunk, 1]
            passing = masks_RC3[r - first, chunk, 2]
            if unsettled != 0 and waiting + CHUNK > open_2U.shape[1]:
                settled += settle(keys, rows, survivors, work, waiting)
                waiting = 0
            while unsettled != 0:
                key_id = key_ids_V[place + start + lowest_bit(unsettled)]
                unsettled &= unsettled - one
                # Keys lie scattered over memory: ask for this one now, and multiply when it is there.
                for column in range(0, width, LINE):
                    prefetch(keys_VH, key_id, column)
                open_2U[0, waiting] = r
                open_2U[1, waiting] = key_id
                waiting += 1
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
                    scores_RB[r, fill] = np.float32(scores_RN[r - offset, column])
                    places_RB[r, fill] = place + column
                    fill += 1
        if fill >= 0 and fill < at_first:
            # The guess from mean and deviation was too high for this row: start from all of the tile instead.
            fill = 0
            threshold = -np.float32(np.inf)
            for column in range(columns):
                scores_RB[r, fill] = np.float32(scores_RN[r - offset, column])
                places_RB[r, fill] = place + column
                fill += 1
        fill_R[r] = fill
        threshold_R[r] = threshold
    return waiting, settled


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

    Returns:
        How many comparisons with rows' own keys were settled.
    """
    count, columns = tile_RN.shape
    chunks = (columns + CHUNK - 1) // CHUNK
    end = columns - CHUNK
    masks_RC3 = np.empty((ROWS, chunks, 3), np.uint64)
    masks_M3 = masks_RC3.reshape(ROWS * chunks, 3)
    low_R, high_R, threshold_R, fill_R = bounds.low_R, bounds.high_R, survivors.threshold_R, survivors.fill_R
    scores_RB, places_RB = survivors.scores_RB, survivors.places_RB
    settled = 0
    waiting = 0
    for first in range(0, count, ROWS):
        stop = min(first + ROWS, count)
        for r in range(first, stop):
            row = tile_RN[r]
            prefetch(scores_RB, r, fill_R[r])
            prefetch(places_RB, r, fill_R[r])
            # The next row's scores have left the nearest cache since they were written.
            following = min(r + 1, count - 1)
            for chunk in range(chunks):
                start = min(chunk * CHUNK, end)
                for column in range(start, start + CHUNK, LINE):
                    prefetch(tile_RN, following, column)
                mask = (r - first) * chunks + chunk
                compare_chunk(row, start, low_R[r], high_R[r], threshold_R[r], masks_M3, mask)
        waiting, flushed = _take_rows(
            first,
            stop,
            0,
            tile_RN,
            masks_RC3,
            keys,
            rows,
            bounds,
            survivors,
            work,
            waiting,
            first_place,
            columns,
            end,
            wanted_at_first,
            kept,
        )
        settled += flushed
    return settled + settle(keys, rows, survivors, work, waiting)


@compiled
def scan_integers(  # type: ignore[no-untyped-def]
    rounded, packed, starts_T, wanted_T, at_first, keys, rows, bounds, survivors, work, kept
):
    """Do what `scan_tile` does for tiles of keys whose scores are yet to be computed, from integers.

    Args:
        rounded: `cpu_rounding.RoundedRows` of the rows.
        packed: int16, the tiles' keys in chunks; zeros follow them in a last chunk that they do not fill.
        starts_T: int64 [tiles + 1], place of each tile's first key, and where the last one stops.
        wanted_T: int64, after each tile the rank that thresholds are tightened to; 0 where they are not.
        at_first: if the first tile of all is among these, survivors needed to learn a threshold; else 0.
        keys: `Keys`.
        rows: `Rows`.
        bounds: `Bounds` of the same rows.
        survivors: `Survivors` of the same rows, changed.
        work: `Work`.
        kept: best keys of a row that must survive.

    Returns:
        How many comparisons with rows' own keys were settled.
    """
    rows_RH, low_R, high_R, floor_R = rounded.rows_RH, rounded.low_R, rounded.high_R, rounded.floor_R
    threshold_R, fill_R = survivors.threshold_R, survivors.fill_R
    scores_RB, places_RB = survivors.scores_RB, survivors.places_RB
    count = rows.queries_RH.shape[0]
    pairs = rows_RH.shape[1] // 2
    largest = 0
    for tile in range(wanted_T.shape[0]):
        largest = max(largest, starts_T[tile + 1] - starts_T[tile])
    masks = np.empty(ROWS * 3 * ((largest + CHUNK - 1) // CHUNK), np.uint64)
    sums = np.empty(ROWS * CHUNK * ((largest + CHUNK - 1) // CHUNK), np.int32)
    settled = 0
    for tile in range(wanted_T.shape[0]):
        first_chunk = (starts_T[tile] - starts_T[0]) // CHUNK
        columns = starts_T[tile + 1] - starts_T[tile]
        chunks = (columns + CHUNK - 1) // CHUNK
        masks_RC3 = masks[: ROWS * 3 * chunks].reshape(ROWS, chunks, 3)
        sums_RN = sums[: ROWS * CHUNK * chunks].reshape(ROWS, CHUNK * chunks)
        of_keys = ~np.uint64(0) >> np.uint64(chunks * CHUNK - columns)
        waiting = 0
        for first in range(0, count, ROWS):
            stop = min(first + ROWS, count)
            for r in range(first, stop):
                floor_R[r] = integer_at_most(threshold_R[r])
                prefetch(scores_RB, r, fill_R[r])
                prefetch(places_RB, r, fill_R[r])
            for chunk in range(chunks):
                compare_products(
                    rows_RH,
                    first,
                    packed,
                    first_chunk + chunk,
                    pairs,
                    low_R,
                    high_R,
                    floor_R,
                    masks_RC3,
                    sums_RN,
                    chunk * CHUNK,
                )
            for row in range(ROWS):
                for mask in range(3):
                    masks_RC3[row, chunks - 1, mask] &= of_keys
            waiting, flushed = _take_rows(
                first,
                stop,
                first,
                sums_RN,
                masks_RC3,
                keys,
                rows,
                bounds,
                survivors,
                work,
                waiting,
                starts_T[tile],
                columns,
                (chunks - 1) * CHUNK,
                at_first if tile == 0 else 0,
                kept,
            )
            settled += flushed
        settled += settle(keys, rows, survivors, work, waiting)
        if wanted_T[tile] > 0:
            tighten(survivors, bounds, wanted_T[tile])
    return settled
