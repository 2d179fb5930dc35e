"""How the CPU engine cuts rows and keys: sizes change the time that scoring takes, never a result.

Shapes: V keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qkatlas.pipeline.scoring.cpu_rounding import Int32Array
from qkatlas.pipeline.scoring.cpu_vectors import CHUNK
from qkatlas.pipeline.text import streams

ROW_TILE = 512
KEY_TILE = 1024
PACKED_BYTES = 80 << 20
BUFFER_BYTES = 8 << 20
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
        integers: preselect in integers where the processor can; else in float32.
    """

    rows: int = ROW_TILE
    keys: int = KEY_TILE
    dense: bool = False
    packed_bytes: int = PACKED_BYTES
    integers: bool = True


def choose_tiling(kept: int, vocabulary_size: int) -> Tiling:
    """Return tile sizes for keeping `kept` of `vocabulary_size` keys a row."""
    if vocabulary_size <= DENSE_KEYS or 4 * kept > vocabulary_size:
        return Tiling(rows=64, dense=True)
    rows = BUFFER_BYTES // (8 * buffer_capacity(kept, Tiling()))
    return Tiling(rows=max(1, min(ROW_TILE, rows)))


@lru_cache(maxsize=2)
def key_order(count: int) -> Int32Array:
    """Return a seeded random order: every tile is a fair sample of the keys, so the first can teach thresholds.

    Kept, and not to be changed: every call of the engine needs it.
    """
    return streams.KEY_ORDER.generator(0).permutation(count).astype(np.int32)


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
