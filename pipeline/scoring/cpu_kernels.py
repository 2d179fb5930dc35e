"""Compiled loops of the CPU scoring engine: one pass over a tile of scores while it is in cache, and exact rescoring.

No fast-math: the compiler may neither reorder additions nor contract them, so `canonical_dot` is the fixed tree of
`scoring_exact` bit for bit. Buffers of survivors hold, per row, every score seen so far that is >= the row's threshold.

Shapes: R rows of a tile, N its keys, V keys, H head dimensions, B buffer capacity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

CHUNK = 64
LINE = 16  # float32 numbers of a cache line
# Up to this many scores, comparing all pairs in vectors beats a selection with branches.
FEW = 512


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, cached on disk. The cache notices changes of its own file only: call none of another file."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba found no writable folder for its cache: compile in every process instead
        return numba.njit(nogil=True, error_model="numpy")(function)


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    return intrinsic(function)


def _chunk_comparison(operator: str) -> Any:
    """Return an intrinsic: (float32 array, start, float32 bound) -> 64-bit mask of `array[start + bit] operator bound`.

    Spelled as vector instructions because LLVM turns no scalar loop into them here: 6 times faster than the best loop.
    LLVM splits the vector as the processor needs, so it runs anywhere.
    """

    @_intrinsic
    def compare(typing_context, array, start, bound):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
            vector = ir.VectorType(ir.FloatType(), CHUNK)
            pointer = builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer())
            scores = builder.load(pointer, align=4)
            undefined = ir.Constant(vector, ir.Undefined)
            zero = ir.Constant(ir.IntType(32), 0)
            bounds = builder.insert_element(undefined, arguments[2], zero)
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), CHUNK), [0] * CHUNK)
            bounds = builder.shuffle_vector(bounds, undefined, lanes)
            return builder.bitcast(builder.fcmp_ordered(operator, scores, bounds), ir.IntType(CHUNK))

        return types.uint64(array, start, bound), generate

    return compare


_mask_above = _chunk_comparison(">")
_mask_at_least = _chunk_comparison(">=")


@_intrinsic
def _compare_chunk(typing_context, array, start, low, high, threshold, masks, chunk):  # type: ignore[no-untyped-def]
    """Write to `masks[chunk]` where `array[start : start + CHUNK]` is >= low, in [low, high], and >= threshold.

    Stored sixteen bits at a time: joining such masks in registers takes nearly as long as making them.
    """
    lanes = 16

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        def data(position):  # type: ignore[no-untyped-def]
            return cgutils.create_struct_proxy(signature.args[position])(context, builder, arguments[position]).data

        def spread(bound):  # type: ignore[no-untyped-def]
            undefined = ir.Constant(vector, ir.Undefined)
            same = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            return builder.shuffle_vector(builder.insert_element(undefined, bound, ir.IntType(32)(0)), undefined, same)

        vector, short, wide = ir.VectorType(ir.FloatType(), lanes), ir.IntType(lanes), ir.IntType(64)
        pointer = builder.bitcast(builder.gep(data(0), [arguments[1]]), vector.as_pointer())
        masks_pointer = builder.gep(data(5), [builder.mul(arguments[6], wide(3))])
        masks_pointer = builder.bitcast(masks_pointer, short.as_pointer())
        low, high, threshold = (spread(bound) for bound in arguments[2:5])
        parts = CHUNK // lanes
        for part in range(parts):
            scores = builder.load(builder.gep(pointer, [wide(part)]), align=4)
            at_least = builder.fcmp_ordered(">=", scores, low)
            within = builder.and_(at_least, builder.fcmp_ordered("<=", scores, high))
            survives = builder.fcmp_ordered(">=", scores, threshold)
            for word, mask in enumerate((at_least, within, survives)):
                target = builder.gep(masks_pointer, [wide(parts * word + part)])
                builder.store(builder.bitcast(mask, short), target, align=2)
        return context.get_dummy_value()

    return types.void(array, start, low, high, threshold, masks, chunk), generate


@_intrinsic
def _count_bits(typing_context, mask):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@_intrinsic
def _lowest_bit(typing_context, mask):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@_intrinsic
def _prefetch(typing_context, matrix, row, column):  # type: ignore[no-untyped-def]
    """Ask for the cache line of an entry of a contiguous matrix: a hint, harmless past the end."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        width = builder.extract_value(array.shape, 1)
        row, column = (builder.sext(index, width.type) for index in arguments[1:])
        pointer = builder.gep(array.data, [builder.add(builder.mul(row, width), column)])
        flag = ir.IntType(32)
        prefetch = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), flag, flag, flag]),
            "llvm.prefetch.p0",
        )
        builder.call(prefetch, [builder.bitcast(pointer, ir.IntType(8).as_pointer()), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(matrix, row, column), generate


def _wide_dot(width: int) -> Any:
    """Return an intrinsic: (queries, row, keys, row) -> the fixed-tree dot product of rows of `width`, in registers.

    The tree of `canonical_dot`, vector by vector: a loop with a run-time width takes twice as long.
    """
    lanes = 8

    @_intrinsic
    def dot(typing_context, queries, r, keys, u):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            def row_start(position):  # type: ignore[no-untyped-def]
                array = cgutils.create_struct_proxy(signature.args[position])(context, builder, arguments[position])
                index = arguments[position + 1]
                if index.type.width < 64:
                    index = builder.sext(index, ir.IntType(64))
                return builder.gep(array.data, [builder.mul(index, ir.Constant(ir.IntType(64), width))])

            def load(start, part):  # type: ignore[no-untyped-def]
                pointer = builder.gep(start, [ir.Constant(ir.IntType(64), part * lanes)])
                pointer = builder.bitcast(pointer, ir.VectorType(ir.FloatType(), lanes).as_pointer())
                return builder.fpext(builder.load(pointer, align=4), ir.VectorType(ir.DoubleType(), lanes))

            query, key = row_start(0), row_start(2)
            parts = [builder.fmul(load(query, part), load(key, part)) for part in range(width // lanes)]
            while len(parts) > 1:
                half = len(parts) // 2
                parts = [builder.fadd(parts[i], parts[i + half]) for i in range(half)]
            total, half = parts[0], lanes // 2
            while half >= 1:
                moved = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [(i + half) % lanes for i in range(lanes)])
                total = builder.fadd(total, builder.shuffle_vector(total, total, moved))
                half //= 2
            return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

        return types.float64(queries, r, keys, u), generate

    return dot


_dot_64 = _wide_dot(64)
_dot_128 = _wide_dot(128)


@compiled
def canonical_dot(queries_RH, r, keys_VH, u, scratch_P):  # type: ignore[no-untyped-def]
    """Return the fixed-tree float64 dot product of query r and key u; `scratch_P` is half the padded width.

    Whole arrays and indices, because views of rows would cost reference counting on every call.
    """
    width = queries_RH.shape[1]
    half = scratch_P.shape[0]
    if width == 64:
        return _dot_64(queries_RH, r, keys_VH, u)
    if width == 128:
        return _dot_128(queries_RH, r, keys_VH, u)
    if width == 1:
        return np.float64(queries_RH[r, 0]) * np.float64(keys_VH[u, 0])
    paired = width - half
    for i in range(paired):
        low = np.float64(queries_RH[r, i]) * np.float64(keys_VH[u, i])
        scratch_P[i] = low + np.float64(queries_RH[r, i + half]) * np.float64(keys_VH[u, i + half])
    for i in range(paired, half):
        scratch_P[i] = np.float64(queries_RH[r, i]) * np.float64(keys_VH[u, i]) + 0.0
    while half > 8:
        half //= 2
        for i in range(half):
            scratch_P[i] += scratch_P[i + half]
    if half == 8:
        # The last three levels of the same tree, without loops: they are a third of the time otherwise.
        even = (scratch_P[0] + scratch_P[4]) + (scratch_P[2] + scratch_P[6])
        odd = (scratch_P[1] + scratch_P[5]) + (scratch_P[3] + scratch_P[7])
        return even + odd
    while half > 1:
        half //= 2
        for i in range(half):
            scratch_P[i] += scratch_P[i + half]
    return scratch_P[0]


@compiled
def canonical_row(queries_RH, r, keys_VH, scratch_P, dots_V):  # type: ignore[no-untyped-def]
    """Fill `dots_V` with the canonical dot products of query r and every key."""
    for u in range(keys_VH.shape[0]):
        dots_V[u] = canonical_dot(queries_RH, r, keys_VH, u, scratch_P)


@compiled
def own_dots(queries_RH, keys_VH, row_ids_R, scratch_P, dots_R):  # type: ignore[no-untyped-def]
    """Fill `dots_R` with the canonical dot product of each query and its own key."""
    for r in range(queries_RH.shape[0]):
        dots_R[r] = canonical_dot(queries_RH, r, keys_VH, row_ids_R[r], scratch_P)


@compiled
def _sort_few(scores_RB, places_RB, r, count):  # type: ignore[no-untyped-def]
    """Sort the first `count` entries, best first, by counting the better ones of each: no branch to mispredict.

    The `count + CHUNK` entries after them are work space.
    """
    row = scores_RB[r]
    for i in range(count, count + CHUNK):
        row[i] = -np.inf
    spare = count + CHUNK
    for i in range(count):
        score = row[i]
        place = spare
        own = i // CHUNK * CHUNK
        for start in range(0, own, CHUNK):
            place += _count_bits(_mask_at_least(row, start, score))
        earlier = ~(~np.uint64(0) << np.uint64(i - own))
        place += _count_bits(_mask_above(row, own, score) | (_mask_at_least(row, own, score) & earlier))
        for start in range(own + CHUNK, count, CHUNK):
            place += _count_bits(_mask_above(row, start, score))
        row[place] = score
        places_RB[r, place] = places_RB[r, i]
    for i in range(count):
        row[i] = row[spare + i]
        places_RB[r, i] = places_RB[r, spare + i]


@compiled
def _select_largest(scores_RB, places_RB, r, count, wanted):  # type: ignore[no-untyped-def]
    """Reorder the first `count` entries so that the `wanted` largest scores come first; return the least of those."""
    if count <= FEW and 2 * count + CHUNK <= scores_RB.shape[1]:
        _sort_few(scores_RB, places_RB, r, count)
        return scores_RB[r, wanted - 1]
    first = 0
    last = count - 1
    target = wanted - 1
    while first < last:
        middle = (first + last) // 2
        a = scores_RB[r, first]
        b = scores_RB[r, middle]
        c = scores_RB[r, last]
        pivot = max(min(a, b), min(max(a, b), c))
        i = first
        j = last
        while i <= j:
            while scores_RB[r, i] > pivot:
                i += 1
            while scores_RB[r, j] < pivot:
                j -= 1
            if i <= j:
                scores_RB[r, i], scores_RB[r, j] = scores_RB[r, j], scores_RB[r, i]
                places_RB[r, i], places_RB[r, j] = places_RB[r, j], places_RB[r, i]
                i += 1
                j -= 1
        if target <= j:
            last = j
        elif target >= i:
            first = i
        else:
            break
    return scores_RB[r, target]


@compiled
def _drop_below(scores_RB, places_RB, r, count, threshold):  # type: ignore[no-untyped-def]
    kept = 0
    for i in range(count):
        score = scores_RB[r, i]
        if score >= threshold:
            scores_RB[r, kept] = score
            places_RB[r, kept] = places_RB[r, i]
            kept += 1
    return kept


@compiled
def scan_tile(  # type: ignore[no-untyped-def]
    tile_RN,
    first_place,
    wanted_at_first,
    kept,
    threshold_R,
    low_R,
    high_R,
    margin_R,
    above_R,
    fill_R,
    scores_RB,
    places_RB,
    queries_RH,
    keys_VH,
    key_ids_V,
    own_dot_R,
    scratch_P,
):
    """Take one tile of approximate scores into the rows' state.

    Counts scores surely above the own key's (> high), settles those in [low, high] by canonical dot products, and
    collects those >= the row's threshold. A full buffer keeps what can still be among the `kept` best, which proves a
    higher threshold; one that cannot be emptied so (ties) marks its row undecided with fill -1.

    `tile_RN` holds the float32 scores of permuted keys `first_place` to first_place + N, N >= 64. On the first tile
    `wanted_at_first` survivors are needed to learn a threshold; it is 0 on later ones. `margin_R` is twice the row's
    error bound, `key_ids_V` the token id of each permuted key; queries and keys are the unscaled originals.
    """
    rows, columns = tile_RN.shape
    capacity = scores_RB.shape[1]
    one = np.uint64(1)
    chunks = (columns + CHUNK - 1) // CHUNK
    masks_C3 = np.empty((chunks, 3), np.uint64)
    for r in range(rows):
        threshold = threshold_R[r]
        low = low_R[r]
        high = high_R[r]
        fill = fill_R[r]
        above = np.int64(0)
        row = tile_RN[r]
        # The next row's scores and buffer have left the nearest cache since they were written.
        following = min(r + 1, rows - 1)
        _prefetch(scores_RB, following, fill_R[following])
        _prefetch(places_RB, following, fill_R[following])
        for chunk in range(chunks):
            start = min(chunk * CHUNK, columns - CHUNK)
            for column in range(start, start + CHUNK, LINE):
                _prefetch(tile_RN, following, column)
            _compare_chunk(row, start, low, high, threshold, masks_C3, chunk)
        for chunk in range(chunks):
            # A ragged end is read as the last whole chunk, less what was seen before.
            start = min(chunk * CHUNK, columns - CHUNK)
            fresh = ~np.uint64(0) << np.uint64(chunk * CHUNK - start)
            unsettled = masks_C3[chunk, 1] & fresh
            survivors = masks_C3[chunk, 2] & fresh
            above += _count_bits(masks_C3[chunk, 0] & fresh)
            while unsettled != 0:
                key_id = key_ids_V[first_place + start + _lowest_bit(unsettled)]
                unsettled &= unsettled - one
                if canonical_dot(queries_RH, r, keys_VH, key_id, scratch_P) <= own_dot_R[r]:
                    above -= 1
            if survivors != 0 and fill >= 0:
                if fill + CHUNK > capacity:
                    bound = _select_largest(scores_RB, places_RB, r, fill, kept) - margin_R[r]
                    threshold = max(threshold, bound)
                    fill = _drop_below(scores_RB, places_RB, r, fill, threshold)
                    if fill > capacity - capacity // 8:
                        fill = -1
                        threshold = np.float32(np.inf)
                        continue
                while survivors != 0:
                    column = start + _lowest_bit(survivors)
                    survivors &= survivors - one
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
def tighten(wanted, threshold_R, fill_R, scores_RB, places_RB):  # type: ignore[no-untyped-def]
    """Raise each threshold to the row's `wanted`-th best score so far: a guess, verified by `finish`."""
    for r in range(fill_R.shape[0]):
        if fill_R[r] > wanted:
            guess = _select_largest(scores_RB, places_RB, r, fill_R[r], wanted)
            if guess > threshold_R[r]:
                threshold_R[r] = guess
                fill_R[r] = _drop_below(scores_RB, places_RB, r, fill_R[r], guess)


@compiled
def _sort_best_first(dots_B, ids_B, count):  # type: ignore[no-untyped-def]
    """Shell sort by dot product descending, then id ascending."""
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, count):
            dot = dots_B[i]
            key_id = ids_B[i]
            j = i
            while j >= gap and (dots_B[j - gap] < dot or (dots_B[j - gap] == dot and ids_B[j - gap] > key_id)):
                dots_B[j] = dots_B[j - gap]
                ids_B[j] = ids_B[j - gap]
                j -= gap
            dots_B[j] = dot
            ids_B[j] = key_id
        gap //= 3


@compiled
def finish(  # type: ignore[no-untyped-def]
    kept,
    scale,
    threshold_R,
    margin_R,
    unit_R,
    offset_R,
    fill_R,
    scores_RB,
    places_RB,
    queries_RH,
    keys_VH,
    key_ids_V,
    row_ids_R,
    scratch_P,
    dots_B,
    ids_2B,
    key_ids_RK,
    scores_RK,
    other_id_R,
    other_score_R,
    undecided_R,
):
    """Rescore the survivors canonically and write each row's best keys; mark rows whose threshold proved too high.

    Every key of the true top `kept` has an approximate score >= (kept-th best approximate score) - margin. A row is
    undecided unless all such keys are in its buffer.

    Returns:
        The largest |approximate - canonical| seen, as a multiple of the row's error bound: above 1 means that the
        float32 product is less accurate than float32 arithmetic allows.
    """
    k = key_ids_RK.shape[1]
    worst = 0.0
    rows = fill_R.shape[0]
    found_2 = np.zeros(2, np.int64)
    for step in range(rows + 1):
        # One row ahead: choose its candidates and ask for their keys, which lie scattered over memory.
        if step < rows:
            r = step
            found = 0
            if fill_R[r] >= kept:
                bound = _select_largest(scores_RB, places_RB, r, fill_R[r], kept) - margin_R[r]
                if bound >= threshold_R[r]:
                    found = _drop_below(scores_RB, places_RB, r, fill_R[r], bound)
                    for i in range(found):
                        ids_2B[r % 2, i] = key_ids_V[places_RB[r, i]]
                        for column in range(0, keys_VH.shape[1], LINE):
                            _prefetch(keys_VH, ids_2B[r % 2, i], column)
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
        _sort_best_first(dots_B, ids_B, found)
        for i in range(k):
            key_ids_RK[r, i] = ids_B[i]
            scores_RK[r, i] = np.float32(dots_B[i] * scale)
        if kept > 1:
            other = 1 if ids_B[0] == row_ids_R[r] else 0
            other_id_R[r] = ids_B[other]
            other_score_R[r] = np.float32(dots_B[other] * scale)
    return worst
