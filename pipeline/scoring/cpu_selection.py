"""Compiled selection: the largest of a row's survivors, and the order of the few that are rescored.

Shapes: R rows of a tile, B buffer capacity.
"""

from __future__ import annotations

import numpy as np

from qkatlas.pipeline.scoring.cpu_compile import compiled
from qkatlas.pipeline.scoring.cpu_vectors import CHUNK, count_bits, mask_above, mask_at_least

# Up to this many scores, comparing all pairs in vectors beats a selection with branches.
FEW = 512


@compiled
def _sort_few(scores_RB, places_RB, r, count):  # type: ignore[no-untyped-def]
    """Sort the first `count` entries of row r, best first, by counting the better ones of each.

    No branch to mispredict. The `count + CHUNK` entries after them are work space.
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
            place += count_bits(mask_at_least(row, start, score))
        earlier = ~(~np.uint64(0) << np.uint64(i - own))
        place += count_bits(mask_above(row, own, score) | (mask_at_least(row, own, score) & earlier))
        for start in range(own + CHUNK, count, CHUNK):
            place += count_bits(mask_above(row, start, score))
        row[place] = score
        places_RB[r, place] = places_RB[r, i]
    for i in range(count):
        row[i] = row[spare + i]
        places_RB[r, i] = places_RB[r, spare + i]


@compiled
def select_largest(scores_RB, places_RB, r, count, wanted):  # type: ignore[no-untyped-def]
    """Bring the `wanted` largest of the first `count` scores of row r to its front; return the least of those."""
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
def drop_below(scores_RB, places_RB, r, count, threshold):  # type: ignore[no-untyped-def]
    """Move the entries >= `threshold` among the first `count` of row r to its front, in order; return their number."""
    kept = 0
    for i in range(count):
        score = scores_RB[r, i]
        if score >= threshold:
            scores_RB[r, kept] = score
            places_RB[r, kept] = places_RB[r, i]
            kept += 1
    return kept


@compiled
def sort_best_first(dots_B, ids_B, count):  # type: ignore[no-untyped-def]
    """Sort the first `count` entries, by Shell's method: by dot product descending, then id ascending."""
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
