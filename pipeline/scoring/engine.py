"""The scoring engine: for every query row the k best keys, the exact self rank and the row's moments, never V x V.

Scores are S[t, u] = scale * Q_t . K_u. Everything is *canonical*: orders, top-k sets and self ranks are those of the
float64 dot products of the float32 queries and keys, summed by a fixed tree (`scoring_exact`), ties to the lower id.
Lower precision may only preselect, under a proven error bound. Results therefore do not depend on tiling, shards,
threads, BLAS or device. Needs neither Ray nor transformers; numba loads on the CPU path only, triton on CUDA only.

Shapes: R rows (queries), V keys, H head dimensions, K top-k.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.scoring import exact as scoring_exact
from qkatlas.pipeline.scoring.exact import Float32Array, Float64Array, KeyMoments

__all__ = ["PreparedKeys", "RowScores", "score_rows"]

MAX_HEAD_DIM = 16384


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """What is kept of each query's row of scores; NumPy arrays with one row per query.

    Attributes:
        key_ids_RK: int32 [R, K], ids of the best keys, best first, ties to the lower id.
        scores_RK: float32 [R, K], their scores: the canonical float64 dot times scale, rounded once.
        self_score_R: float32 [R], score of the row's own key.
        self_rank_R: int32 [R], 1 + number of keys whose float64 dot exceeds the own key's.
        row_mean_R: float64 [R], mean score over all V keys.
        row_std_R: float64 [R], population standard deviation over all V keys.
        best_other_id_R: int32 [R], id of the best key other than the row's own; with V = 1 a fully masked array.
        best_other_score_R: float32 [R], its score; masked likewise.
    """

    key_ids_RK: npt.NDArray[np.int32]
    scores_RK: Float32Array
    self_score_R: Float32Array
    self_rank_R: npt.NDArray[np.int32]
    row_mean_R: Float64Array
    row_std_R: Float64Array
    best_other_id_R: npt.NDArray[np.int32]
    best_other_score_R: Float32Array


class PreparedKeys:
    """Keys and all that depends on them only, to be shared by any number of `score_rows` calls and threads.

    Args:
        keys_VH: finite float32 [V, H]; row u is the key of token id u. Not copied if contiguous: do not change it.
        device: "cpu", "cuda" or "cuda:N"; chooses the implementation.

    Raises:
        ValueError: wrong shape or type, no keys, or a key that is not finite (named by its token id).
    """

    def __init__(self, keys_VH: Float32Array, *, device: str | torch.device = "cpu") -> None:
        keys = _checked_matrix(keys_VH, "keys_VH")
        if not 1 <= keys.shape[0] < 2**31 - 1:
            raise ValueError(f"keys_VH has {keys.shape[0]} rows; it needs between 1 and {2**31 - 2}")
        if not 1 <= keys.shape[1] <= MAX_HEAD_DIM:
            raise ValueError(f"keys_VH has head dimension {keys.shape[1]}; supported are 1 to {MAX_HEAD_DIM}")
        _refuse_non_finite(keys, None, "key")
        self.device = torch.device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"device {str(device)!r} is not supported; use 'cpu' or 'cuda'")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {str(device)!r} asked for, but torch finds no CUDA device; use 'cpu'")
        self.keys_VH = keys
        self.moments: KeyMoments = scoring_exact.key_moments(keys)
        self._lock = threading.Lock()
        self._packed: dict[Hashable, Any] = {}

    def packed(self, layout: Hashable, make: Callable[[PreparedKeys, Any], Any]) -> Any:
        """Return `make(self, layout)`, made once per layout; for the implementations' own copies of the keys."""
        with self._lock:
            if layout not in self._packed:
                self._packed[layout] = make(self, layout)
            return self._packed[layout]

    @property
    def vocabulary_size(self) -> int:
        """Number of keys, V."""
        return int(self.keys_VH.shape[0])

    @property
    def head_dim(self) -> int:
        """Length of a key, H."""
        return int(self.keys_VH.shape[1])


def score_rows(
    queries_RH: Float32Array,
    keys: PreparedKeys,
    *,
    row_ids_R: npt.ArrayLike,
    k: int,
    scale: float = 1.0,
    threads: int = 1,
) -> RowScores:
    """Score query rows against all keys and keep the top k, the self rank and the row moments.

    Args:
        queries_RH: finite float32 [R, H].
        keys: the keys, prepared once; its device chooses the implementation.
        row_ids_R: integers [R], id of each row's own key.
        k: how many keys to keep, 1 to V.
        scale: positive factor on every score (1/sqrt(H) for attention scores).
        threads: CPU worker threads, at least 1; results never depend on it.

    Returns:
        The rows' scores; arrays of length R in the order of `queries_RH`.

    Raises:
        ValueError: an argument out of range, or a query that is not finite (named by its token id).
    """
    queries = _checked_matrix(queries_RH, "queries_RH")
    if queries.shape[1] != keys.head_dim:
        raise ValueError(f"queries_RH has head dimension {queries.shape[1]}, the keys have {keys.head_dim}")
    row_ids = np.asarray(row_ids_R)
    if row_ids.shape != (queries.shape[0],):
        raise ValueError(f"row_ids_R has shape {row_ids.shape}; {queries.shape[0]} rows need ({queries.shape[0]},)")
    if row_ids.size and row_ids.dtype.kind not in "iu":
        raise ValueError(f"row_ids_R has dtype {row_ids.dtype}; token ids must be integers")
    outside = np.flatnonzero((row_ids < 0) | (row_ids >= keys.vocabulary_size))
    if outside.size:
        raise ValueError(f"row_ids_R holds {row_ids[outside[0]]}; ids must be 0 to {keys.vocabulary_size - 1}")
    if not 1 <= k <= keys.vocabulary_size:
        raise ValueError(f"k is {k}; it must be between 1 and the number of keys, {keys.vocabulary_size}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; it must be positive and finite")
    if threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1")
    row_ids = row_ids.astype(np.int64)
    _refuse_non_finite(queries, row_ids, "query")
    rows = len(queries)
    best_other_id_R = np.zeros(rows, np.int32)
    best_other_score_R = np.zeros(rows, np.float32)
    if keys.vocabulary_size == 1:
        best_other_id_R = np.ma.masked_all(rows, np.int32)
        best_other_score_R = np.ma.masked_all(rows, np.float32)
    scores = RowScores(
        key_ids_RK=np.empty((rows, k), np.int32),
        scores_RK=np.empty((rows, k), np.float32),
        self_score_R=np.empty(rows, np.float32),
        self_rank_R=np.empty(rows, np.int32),
        row_mean_R=np.empty(rows),
        row_std_R=np.empty(rows),
        best_other_id_R=best_other_id_R,
        best_other_score_R=best_other_score_R,
    )
    if keys.device.type == "cuda":
        from qkatlas.pipeline.scoring import cuda as scoring_cuda

        scoring_cuda.score(queries, keys, row_ids, scores, float(scale), threads)
    else:
        from qkatlas.pipeline.scoring import cpu as scoring_cpu

        scoring_cpu.score(queries, keys, row_ids, scores, float(scale), threads)
    return scores


def _checked_matrix(matrix: Float32Array, name: str) -> Float32Array:
    if not isinstance(matrix, np.ndarray) or matrix.dtype != np.float32 or matrix.ndim != 2:
        kind = f"{matrix.dtype} with {matrix.ndim} axes" if isinstance(matrix, np.ndarray) else type(matrix).__name__
        raise ValueError(f"{name} must be a NumPy float32 matrix, not {kind}")
    return np.ascontiguousarray(matrix)


def _refuse_non_finite(matrix: Float32Array, token_ids: npt.NDArray[np.int64] | None, what: str) -> None:
    # Finite float32 numbers sum to a finite float64: one pass of sums finds the bad rows without a mask of the whole.
    bad = np.flatnonzero(~np.isfinite(matrix.sum(axis=1, dtype=np.float64)))
    if bad.size:
        row = int(bad[0])
        token = row if token_ids is None else int(token_ids[row])
        value = matrix[row][~np.isfinite(matrix[row])][0]
        raise ValueError(f"the {what} of token id {token} is not finite (it holds {value}); scores need finite states")
