"""The scoring engine: for every query row the k best keys, the exact self rank and the row's moments, never V x V.

Scores are S[t, u] = scale * Q_t . K_u. Everything is *canonical*: orders, top-k sets and self ranks are those of the
float64 dot products of the float32 queries and keys, summed by a fixed tree (`exact`), ties to the lower id.
Lower precision may only preselect, under a proven error bound. Results therefore do not depend on tiling, shards,
threads, BLAS or device. Rows need not be tokens of the keys' vocabulary: without own keys there is no self rank.
Needs neither Ray nor transformers; numba loads on the CPU path only, triton on CUDA only.

Shapes: R rows (queries), V keys, H head dimensions, K top-k.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.scoring.exact import Float32Array
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores, checked_matrix, refuse_non_finite


def score_rows(
    queries_RH: Float32Array,
    keys: PreparedKeys,
    *,
    row_ids_R: npt.ArrayLike | None = None,
    k: int,
    scale: float = 1.0,
    threads: int = 1,
    lowest: bool = False,
) -> RowScores:
    """Score query rows against all keys and keep the top k, the self rank and the row moments.

    Args:
        queries_RH: finite float32 [R, H].
        keys: the keys, prepared once; its device chooses the implementation.
        row_ids_R: integers [R], id of each row's own key; None where rows have none, as in products of two different
            things. What depends on it is then fully masked.
        k: how many keys to keep, 1 to V.
        scale: positive factor on every score (1/sqrt(H) for attention scores).
        threads: CPU worker threads, at least 1; results never depend on it.
        lowest: keep the k lowest scores instead, lowest first, ties to the lower id. Scores and moments are the true
            ones; the self rank counts the keys below the own one, and the best other key is the lowest other.

    Returns:
        The rows' scores; arrays of length R in the order of `queries_RH`.

    Raises:
        ValueError: an argument out of range, or a query that is not finite (named by its token id).
    """
    queries = checked_matrix(queries_RH, "queries_RH")
    if queries.shape[1] != keys.head_dim:
        raise ValueError(f"queries_RH has head dimension {queries.shape[1]}, the keys have {keys.head_dim}")
    row_ids = _checked_ids(row_ids_R, len(queries), keys)
    if not 1 <= k <= keys.vocabulary_size:
        raise ValueError(f"k is {k}; it must be between 1 and the number of keys, {keys.vocabulary_size}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; it must be positive and finite")
    if threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1")
    refuse_non_finite(queries, None if row_ids_R is None else row_ids, "query")
    if lowest:
        queries = -queries  # exact, as every product and sum of the canonical dot product is then
    scores = RowScores.unfilled(len(queries), k=k, vocabulary_size=keys.vocabulary_size)
    # An implementation is loaded where it is used: numba on the CPU path only, triton on CUDA only.
    if keys.device.type == "cuda":
        from qkatlas.pipeline.scoring import cuda

        cuda.score(queries, keys, row_ids, scores, k=k, scale=float(scale), threads=threads)
    else:
        from qkatlas.pipeline.scoring import cpu

        cpu.score(queries, keys, row_ids, scores, k=k, scale=float(scale), threads=threads)
    if row_ids_R is None:
        scores = scores.without_own()
    return scores.negated() if lowest else scores


def best_keys(
    queries_RH: Float32Array, keys: PreparedKeys, *, k: int, threads: int = 1
) -> tuple[npt.NDArray[np.int32], Float32Array]:
    """Find each row's k best keys and their dot products, and nothing else: no own key, no moments.

    Args:
        queries_RH: finite float32 [R, H].
        keys: the keys, prepared once; its device chooses the implementation.
        k: how many keys to keep, 1 to V.
        threads: CPU worker threads, at least 1; results never depend on it.

    Returns:
        int32 [R, k] ids, best first, ties to the lower id, and float32 [R, k] dot products: as `score_rows` gives them.

    Raises:
        ValueError: an argument out of range, or a query that is not finite (named by its row).
    """
    if keys.device.type == "cuda":
        # There the statistics come with the same sweeps, and cost next to nothing.
        scores = score_rows(queries_RH, keys, row_ids_R=np.zeros(len(queries_RH), np.int64), k=k, threads=threads)
        return scores.key_ids_RK, scores.scores_RK
    from qkatlas.pipeline.scoring import cpu

    queries = checked_matrix(queries_RH, "queries_RH")
    if queries.shape[1] != keys.head_dim:
        raise ValueError(f"queries_RH has head dimension {queries.shape[1]}, the keys have {keys.head_dim}")
    if not 1 <= k <= keys.vocabulary_size:
        raise ValueError(f"k is {k}; it must be between 1 and the number of keys, {keys.vocabulary_size}")
    if threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1")
    refuse_non_finite(queries, None, "query")
    scores = RowScores.unfilled(len(queries), k=k, vocabulary_size=keys.vocabulary_size)
    cpu.score(queries, keys, None, scores, k=k, scale=1.0, threads=threads)
    return scores.key_ids_RK, scores.scores_RK


def _checked_ids(row_ids_R: npt.ArrayLike | None, rows: int, keys: PreparedKeys) -> npt.NDArray[np.int64]:
    """Ids of the rows' own keys. Rows without get one to be masked out later, for implementations know no others.

    That is the longest key, since a key that many others equal, as those of unused tokens do, would have all of these
    settled in float64 for every row.
    """
    if row_ids_R is None:
        return np.full(rows, keys.longest, np.int64)
    row_ids = np.asarray(row_ids_R)
    if row_ids.shape != (rows,):
        raise ValueError(f"row_ids_R has shape {row_ids.shape}; {rows} rows need ({rows},)")
    if row_ids.size and row_ids.dtype.kind not in "iu":
        raise ValueError(f"row_ids_R has dtype {row_ids.dtype}; token ids must be integers")
    outside = np.flatnonzero((row_ids < 0) | (row_ids >= keys.vocabulary_size))
    if outside.size:
        raise ValueError(f"row_ids_R holds {row_ids[outside[0]]}; ids must be 0 to {keys.vocabulary_size - 1}")
    return row_ids.astype(np.int64)
