"""Two heads over the tokens that their runs have in common, with intervals over these tokens.

Shapes: C common tokens, K best keys of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qkatlas.jobs.diff.common import ABSENT, Common
from qkatlas.jobs.inputs.head_tables import HeadTables
from qkatlas.pipeline.models.head import Head

_NORMAL_95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One head over the common tokens.

    Attributes:
        keys_CK: int64, places of its best keys among the common tokens, best first, or ABSENT.
        rank_C: float64, own rank divided by the size of the vocabulary.
        z_C: float64, own score in standard deviations of the row; NaN where it does not vary.
    """

    keys_CK: np.ndarray
    rank_C: np.ndarray
    z_C: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean over tokens and its 95% interval, by the normal law."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Interval:
        """Of values one a token; NaN is left out."""
        defined = values[~np.isnan(values)]
        if not len(defined):
            return cls(float("nan"), float("nan"), float("nan"))
        mean = float(defined.mean())
        reach = _NORMAL_95 * float(defined.std()) / len(defined) ** 0.5
        return cls(mean, mean - reach, mean + reach)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A token whose own rank moved.

    Attributes:
        token_id: in the first run.
        before, after: own rank as a share of the vocabulary.
    """

    token_id: int
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One head in both runs; all is 0 where they agree.

    Attributes:
        head: the head.
        changed: share of the best keys that are others in the second run.
        rank_shift: own rank in the second run less that in the first, as shares of the vocabulary.
        z_shift: the same of own scores, in standard deviations of their rows.
        moved: tokens whose own rank moved most.
    """

    head: Head
    changed: Interval
    rank_shift: Interval
    z_shift: Interval
    moved: tuple[Moved, ...]


def rows_of(tables: HeadTables, ids_C: np.ndarray, place_of: np.ndarray, k: int) -> Rows:
    """A head's rows of the common tokens.

    Args:
        tables: of the head.
        ids_C: the common tokens' ids in its run.
        place_of: by id, place among the common tokens.
        k: best keys of each token to look at.

    Raises:
        ValueError: if a file is damaged.
    """
    token_R, keys_RK = tables.columns("topk", "key_ids")
    own_R, rank_R, z_R = tables.columns("self", "self_rank", "self_z")
    rows_C, own_C = _order(token_R)[ids_C], _order(own_R)[ids_C]
    return Rows(
        keys_CK=place_of[keys_RK[rows_C, :k]],
        rank_C=rank_R[own_C] / len(place_of),
        z_C=z_R[own_C].astype(np.float64),
    )


def difference(head: Head, one: Rows, other: Rows, common: Common, count: int) -> Difference:
    """Compare one head in two runs.

    Args:
        head: the head.
        one: its rows in the first run.
        other: its rows in the second.
        common: their tokens.
        count: tokens that moved most to list.
    """
    shift_C = other.rank_C - one.rank_C
    most = np.argsort(-np.abs(shift_C), kind="stable")[:count]
    return Difference(
        head=head,
        changed=Interval.of(1 - overlap(one.keys_CK, other.keys_CK)),
        rank_shift=Interval.of(shift_C),
        z_shift=Interval.of(other.z_C - one.z_C),
        moved=tuple(
            Moved(token_id=int(common.first_C[at]), before=float(one.rank_C[at]), after=float(other.rank_C[at]))
            for at in most
            if shift_C[at] != 0
        ),
    )


def overlap(one_CK: np.ndarray, other_CK: np.ndarray) -> np.ndarray:
    """Share of the best keys that are the same, of those that both runs could have.

    Args:
        one_CK: places of keys among the common tokens, or ABSENT.
        other_CK: the same of the other run.

    Returns:
        float64 [C]; NaN where one has no common key among its best.
    """
    same_C = np.zeros(len(one_CK))
    for key_C in one_CK.T:  # one key at a time: C x K booleans
        same_C += ((other_CK == key_C[:, None]) & (key_C != ABSENT)[:, None]).any(axis=1)
    possible_C = np.minimum((one_CK != ABSENT).sum(axis=1), (other_CK != ABSENT).sum(axis=1))
    share_C: np.ndarray = np.divide(same_C, possible_C, out=np.full(len(one_CK), np.nan), where=possible_C > 0)
    return share_C


def kept(tables: Mapping[Head, HeadTables]) -> int:
    """Keys that a run keeps of each token.

    Raises:
        ValueError: if it has no QK tables.
    """
    first = next(iter(tables.values()))
    if "topk" not in first or "self" not in first:
        raise ValueError(f"run {first.run.folder.name} has no QK tables; name runs of --circuit qk or both")
    _, keys_RK = first.columns("topk", "key_ids", of=[0])
    return int(keys_RK.shape[1])


def _order(token_R: np.ndarray) -> np.ndarray:
    """Row of each token id."""
    order = np.empty(len(token_R), np.int64)
    order[token_R] = np.arange(len(token_R))
    return order
