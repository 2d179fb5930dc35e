"""What the scoring engine takes and gives: keys prepared once, and what is kept of each query's row of scores.

The engine, its CPU and its CUDA implementation all stand on this file, and it on none of them.

Shapes: R rows (queries), V keys, H head dimensions, K top-k.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.scoring.exact import Float32Array, Float64Array, KeyMoments, key_mean, key_moments

MAX_HEAD_DIM = 16384


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """What is kept of each query's row of scores; NumPy arrays with one row per query.

    Where rows have no own key, the arrays about it and about others are fully masked.

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

    @classmethod
    def unfilled(cls, rows: int, *, k: int, vocabulary_size: int) -> RowScores:
        """Return arrays for an implementation to fill.

        Args:
            rows: R.
            k: K, keys kept a row.
            vocabulary_size: V; with one key there is no other one, so both columns of it are masked for good.
        """
        other = np.ma.masked_all if vocabulary_size == 1 else np.zeros
        return cls(
            key_ids_RK=np.empty((rows, k), np.int32),
            scores_RK=np.empty((rows, k), np.float32),
            self_score_R=np.empty(rows, np.float32),
            self_rank_R=np.empty(rows, np.int32),
            row_mean_R=np.empty(rows),
            row_std_R=np.empty(rows),
            best_other_id_R=other(rows, np.int32),
            best_other_score_R=other(rows, np.float32),
        )

    def without_own(self) -> RowScores:
        """The same of rows that have no own key."""
        of_own = ("self_score_R", "self_rank_R", "best_other_id_R", "best_other_score_R")
        return replace(self, **{name: np.ma.masked_all_like(np.ma.getdata(getattr(self, name))) for name in of_own})

    def negated(self) -> RowScores:
        """The same of the opposite queries: best keys become lowest ones, under their true scores."""
        of_scores = ("scores_RK", "self_score_R", "row_mean_R", "best_other_score_R")
        return replace(self, **{name: 0 - getattr(self, name) for name in of_scores})  # 0 - 0 has no sign, -0 has


class PreparedKeys:
    """Keys and all that depends on them only, to be shared by any number of `score_rows` calls and threads.

    Args:
        keys_VH: finite float32 [V, H]; row u is the key of token id u. Not copied if contiguous: do not change it.
        device: "cpu", "cuda" or "cuda:N"; chooses the implementation.

    Raises:
        ValueError: wrong shape or type, no keys, or a key that is not finite (named by its token id).
    """

    def __init__(self, keys_VH: Float32Array, *, device: str | torch.device = "cpu") -> None:
        keys = checked_matrix(keys_VH, "keys_VH")
        if not 1 <= keys.shape[0] < 2**31 - 1:
            raise ValueError(f"keys_VH has {keys.shape[0]} rows; it needs between 1 and {2**31 - 2}")
        if not 1 <= keys.shape[1] <= MAX_HEAD_DIM:
            raise ValueError(f"keys_VH has head dimension {keys.shape[1]}; supported are 1 to {MAX_HEAD_DIM}")
        refuse_non_finite(keys, None, "key")
        self.device = torch.device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"device {str(device)!r} is not supported; use 'cpu' or 'cuda'")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {str(device)!r} asked for, but torch finds no CUDA device; use 'cpu'")
        self.keys_VH = keys
        self.mean_H: torch.Tensor = key_mean(keys)
        self._lock = threading.RLock()
        self._packed: dict[Hashable, Any] = {}

    def packed(self, layout: Hashable, make: Callable[[PreparedKeys, Any], Any]) -> Any:
        """Return `make(self, layout)`, made once per layout; for the implementations' own copies of the keys."""
        with self._lock:
            if layout not in self._packed:
                self._packed[layout] = make(self, layout)
            return self._packed[layout]

    @property
    def moments(self) -> KeyMoments:
        """First and second moments, computed when they are asked for: wide keys pay dearly for them."""
        moments: KeyMoments = self.packed("moments", lambda keys, layout: key_moments(keys.keys_VH, keys.mean_H))
        return moments

    @property
    def vocabulary_size(self) -> int:
        """Number of keys, V."""
        return int(self.keys_VH.shape[0])

    @property
    def head_dim(self) -> int:
        """Length of a key, H."""
        return int(self.keys_VH.shape[1])

    @cached_property
    def longest(self) -> int:
        """Id of the longest key, the lowest of equals."""
        return int(np.einsum("vh,vh->v", self.keys_VH, self.keys_VH, dtype=np.float64, casting="safe").argmax())

    def decided(self, k: int) -> int:
        """How many best keys of a row must be known to keep `k`: two at least, where V allows it.

        The best key other than the row's own is the second best where the own key is the best.
        """
        return min(max(k, 2), self.vocabulary_size)


def not_own(key_ids_RK: npt.NDArray[np.int32], row_ids_R: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Which of the best keys are others than the row's own, K - 1 in every row.

    Args:
        key_ids_RK: int32 [R, K], ids of each row's best keys, best first.
        row_ids_R: id of each row's own key.

    Returns:
        bool [R, K]; in a row whose own key is not among its best the last entry is left out instead.
    """
    other_RK: npt.NDArray[np.bool_] = key_ids_RK != row_ids_R[:, None]
    other_RK[other_RK.all(axis=1), -1] = False
    return other_RK


def checked_matrix(matrix: Float32Array, name: str) -> Float32Array:
    """Return the matrix in contiguous rows.

    Raises:
        ValueError: it is no NumPy float32 matrix.
    """
    if not isinstance(matrix, np.ndarray) or matrix.dtype != np.float32 or matrix.ndim != 2:
        kind = f"{matrix.dtype} with {matrix.ndim} axes" if isinstance(matrix, np.ndarray) else type(matrix).__name__
        raise ValueError(f"{name} must be a NumPy float32 matrix, not {kind}")
    return np.ascontiguousarray(matrix)


def refuse_non_finite(matrix: Float32Array, token_ids: npt.NDArray[np.int64] | None, what: str) -> None:
    """Check that every number is finite.

    Args:
        matrix: float32, a row a token.
        token_ids: the rows' tokens; None where row u is token u.
        what: what a row is, for the message.

    Raises:
        ValueError: one is not; names the first such token.
    """
    # Finite float32 numbers sum to a finite float64: one pass of sums finds the bad rows without a mask of the whole.
    bad = np.flatnonzero(~np.isfinite(matrix.sum(axis=1, dtype=np.float64)))
    if bad.size:
        row = int(bad[0])
        token = row if token_ids is None else int(token_ids[row])
        value = matrix[row][~np.isfinite(matrix[row])][0]
        raise ValueError(f"the {what} of token id {token} is not finite (it holds {value}); scores need finite states")
