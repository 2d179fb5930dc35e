"""Hubs: keys that are the best key of many rows, as sinks are, and lists of best keys without them.

Shapes: R rows, V vocabulary, K kept keys of a row, N hubs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.scoring.rows import RowScores


@dataclass(frozen=True, kw_only=True)
class Hubs:
    """Keys that are the best key of at least a share of all rows, those of the most rows first.

    Attributes:
        ids_N: int32 [N], the keys; equal ones by lower id.
        rows_N: int64 [N], rows that each is the best key of.
        of: rows in all.
    """

    ids_N: npt.NDArray[np.int32]
    rows_N: npt.NDArray[np.int64]
    of: int

    @classmethod
    def among(cls, best_id_R: npt.NDArray[np.int32], share: float) -> Hubs:
        """Find the hubs of some rows.

        Args:
            best_id_R: int32 [R], the best key of each row, which may be the token itself.
            share: of the rows, above 0 and at most 1.
        """
        ids_N, rows_N = np.unique(best_id_R, return_counts=True)
        many_N = rows_N >= share * len(best_id_R)
        ids_N, rows_N = ids_N[many_N], rows_N[many_N]
        order_N = np.argsort(-rows_N, kind="stable")
        return cls(ids_N=ids_N[order_N].astype(np.int32), rows_N=rows_N[order_N].astype(np.int64), of=len(best_id_R))

    @classmethod
    def of_lists(cls, ids: Sequence[int], rows: Sequence[int], *, of: int) -> Hubs:
        """Hubs as a receipt has them; see the attributes."""
        return cls(ids_N=np.array(ids, np.int32), rows_N=np.array(rows, np.int64), of=of)


def most_hubs(share: float) -> int:
    """As many keys as can each be the best of at least this share of all rows."""
    return int(1 / share + 1e-9)


def without_keys(scores: RowScores, ids_N: npt.NDArray[np.int32], k: int) -> RowScores:
    """The same rows with some keys left out of their lists; nothing else of them changes.

    Args:
        scores: rows with at least k + N keys each, or all there are.
        ids_N: int32 [N], the keys to leave out.
        k: keys that each row is to keep.
    """
    left_out_RK = np.isin(scores.key_ids_RK, ids_N)
    # A stable order by what is left out: what is kept stays best first.
    kept_RK = np.argsort(left_out_RK, axis=1, kind="stable")[:, :k]
    assert not np.take_along_axis(left_out_RK, kept_RK, axis=1).any(), "there are too few keys to leave any out"
    return replace(
        scores,
        key_ids_RK=np.take_along_axis(scores.key_ids_RK, kept_RK, axis=1),
        scores_RK=np.take_along_axis(scores.scores_RK, kept_RK, axis=1),
    )
