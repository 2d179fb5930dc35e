"""Which head of one run is which of another: an assignment by what heads do and by whom they attend to.

Heads of two runs are compared by columns of `heads`, each in standard deviations over all heads of both runs, and by
the overlap of their best keys over a sample of common tokens. An assignment makes the sum of squared distances least:
no two heads are matched with the same one. Of a run with itself all distances are 0.

Shapes: M heads of the first run, N of the second, F features, S sampled tokens, K best keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from qkatlas.jobs.diff.common import ABSENT
from qkatlas.pipeline.models.head import Head

FEATURES = (
    "self_z_mean", "kin_z_mean", "suppression_index_mean", "semantic_category_score_mean", "previous_token_score",
    "duplicate_token_score", "induction_score", "prefix_induction_score_4", "bos_share", "ov_self_top10_share",
    "ov_self_lowest10_share",
)  # fmt: skip
"""Columns of `heads` that say what a head does, whatever the vocabulary."""


@dataclass(frozen=True)
class Match:
    """A head of the first run and the one that it is matched with.

    Attributes:
        head: of the first run.
        other: of the second.
        distance: root mean square over features, in standard deviations over heads, and over the share of other keys.
        next_distance: the least distance of the head to any other head of the second run; None where there is none.
        overlap: mean share of best keys that both have.
        label, other_label: what either run calls them; None where it does not.
    """

    head: Head
    other: Head
    distance: float
    next_distance: float | None
    overlap: float
    label: str | None
    other_label: str | None


def match(
    heads: Sequence[Head],
    others: Sequence[Head],
    overlap_MN: np.ndarray,
    first: pa.Table | None,
    second: pa.Table | None,
) -> list[Match]:
    """Assign the heads of two runs to each other.

    Args:
        heads: of the first run.
        others: of the second.
        overlap_MN: `overlaps` of their best keys.
        first: the first run's `heads`; None where it has none.
        second: the second's.

    Returns:
        A match for each head of the run with fewer of them, in order of the first run's heads.
    """
    features = [_features(table, of) for table, of in ((first, heads), (second, others))]
    used = sorted(set(features[0]) & set(features[1]))
    squares_MN = (1 - overlap_MN) ** 2
    for name in used:
        one_M, other_N = features[0][name], features[1][name]
        spread = np.concatenate([one_M, other_N]).std()
        if spread > 0:
            squares_MN = squares_MN + ((one_M[:, None] - other_N) / spread) ** 2
    distance_MN = np.sqrt(squares_MN / (1 + len(used)))
    labels = [_labels(table) for table in (first, second)]
    found = []
    # The sum of squares, so that a head which stands out is not given away for many that nearly agree.
    for row, column in zip(*linear_sum_assignment(distance_MN**2), strict=True):
        rest = np.delete(distance_MN[row], column)
        found.append(
            Match(
                head=heads[row],
                other=others[column],
                distance=float(distance_MN[row, column]),
                next_distance=float(rest.min()) if len(rest) else None,
                overlap=float(overlap_MN[row, column]),
                label=labels[0].get(heads[row]),
                other_label=labels[1].get(others[column]),
            )
        )
    return found


def overlaps(first: Sequence[np.ndarray], second: Sequence[np.ndarray], common: int) -> np.ndarray:
    """Mean share of best keys that heads of two runs have in common, for every pair of heads.

    Args:
        first: int64 [S, K] of each head, places of its best keys among the common tokens, or ABSENT.
        second: the same of the second run, over the same tokens.
        common: common tokens.

    Returns:
        float64 [M, N].
    """
    one, other = (_entries(of, common) for of in (first, second))
    same_MN = (one @ other.T).toarray().astype(np.float64)
    possible_MN = np.minimum.outer(one.sum(axis=1), other.sum(axis=1)).astype(np.float64)
    shares_MN: np.ndarray = np.divide(same_MN, possible_MN, out=np.zeros_like(same_MN), where=possible_MN > 0)
    return shares_MN


def _entries(heads: Sequence[np.ndarray], common: int) -> csr_array:
    """A row a head with a 1 for every pair of a sampled token and a best key."""
    columns, ends = [], [0]
    for keys_SK in heads:
        pairs = keys_SK + common * np.arange(len(keys_SK))[:, None]
        columns.append(np.sort(pairs[keys_SK != ABSENT]))
        ends.append(ends[-1] + len(columns[-1]))
    values = np.ones(ends[-1], np.int64)
    return csr_array((values, np.concatenate(columns), ends), shape=(len(heads), common * len(heads[0])))


def _features(table: pa.Table | None, heads: Sequence[Head]) -> dict[str, np.ndarray]:
    """The features that all heads of a run have."""
    if table is None:
        return {}
    rows = {Head(row["layer"], row["head"]): row for row in table.to_pylist()}
    found = {}
    for name in FEATURES:
        values = [rows[head].get(name) for head in heads]
        if all(value is not None for value in values):
            found[name] = np.array(values, np.float64)
    return found


def _labels(table: pa.Table | None) -> dict[Head, str]:
    return {} if table is None else {Head(row["layer"], row["head"]): row["label"] for row in table.to_pylist()}
