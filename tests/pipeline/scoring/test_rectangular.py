"""Rows that are no tokens of the keys' vocabulary, and lowest scores: against whole rows of float64 dot products."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference

from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores

OF_OWN = ("self_score_R", "self_rank_R", "best_other_id_R", "best_other_score_R")


def matrices(rows: int, count: int, width: int, *, ties: bool) -> tuple[npt.NDArray[np.float32], ...]:
    rng = np.random.default_rng(count)
    drawn = [rng.standard_normal((n, width)) for n in (rows, count)]
    if ties:  # many keys that are one, as those of unused tokens are, and scores that are equal
        drawn = [np.round(matrix) for matrix in drawn]
        drawn[1][count // 2 :] = drawn[1][0]
    return tuple(matrix.astype(np.float32) for matrix in drawn)


@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("rows", "count", "width", "k"), [(70, 1500, 24, 9), (3, 40, 5, 40), (5, 1, 3, 1)])
def test_rows_without_own_keys(rows: int, count: int, width: int, k: int, ties: bool, lowest: bool) -> None:
    queries, keys = matrices(rows, count, width, ties=ties)
    found = score_rows(queries, PreparedKeys(keys), k=k, scale=0.125, lowest=lowest)
    dots_RV = reference.tree_dots(queries, keys)
    for r, dots_V in enumerate(dots_RV):
        order = np.lexsort((np.arange(count), dots_V if lowest else -dots_V))[:k]
        np.testing.assert_array_equal(found.key_ids_RK[r], order)
        np.testing.assert_array_equal(found.scores_RK[r], (dots_V[order] * 0.125).astype(np.float32))
    assert all(np.ma.getmaskarray(getattr(found, name)).all() for name in OF_OWN)
    np.testing.assert_allclose(found.row_mean_R, 0.125 * dots_RV.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(found.row_std_R, 0.125 * dots_RV.std(axis=1), atol=1e-7)


def test_lowest_scores_of_rows_with_own_keys() -> None:
    queries, keys = matrices(60, 900, 16, ties=True)
    own = np.arange(60)
    found = score_rows(queries, PreparedKeys(keys), row_ids_R=own, k=7, lowest=True)
    dots_RV = reference.tree_dots(queries, keys)
    own_R1 = dots_RV[own, own][:, None]
    np.testing.assert_array_equal(found.self_rank_R, 1 + (dots_RV < own_R1).sum(axis=1))
    np.testing.assert_array_equal(found.self_score_R, own_R1[:, 0].astype(np.float32))
    for r in own:
        order = np.lexsort((np.arange(900), dots_RV[r]))
        assert found.best_other_id_R[r] == order[order != r][0]
        assert found.best_other_score_R[r] == np.float32(dots_RV[r, order[order != r][0]])


def test_a_zero_has_no_sign_among_the_lowest() -> None:
    found = score_rows(np.zeros((2, 4), np.float32), PreparedKeys(np.ones((9, 4), np.float32)), k=3, lowest=True)
    assert not np.signbit(found.scores_RK).any()
    np.testing.assert_array_equal(found.key_ids_RK, [[0, 1, 2]] * 2)


def test_threads_change_nothing() -> None:
    queries, keys = matrices(1200, 700, 8, ties=False)
    one, two = (score_rows(queries, PreparedKeys(keys), k=4, lowest=True, threads=threads) for threads in (1, 2))
    for field in fields(RowScores):
        assert getattr(one, field.name).tobytes() == getattr(two, field.name).tobytes(), field.name


def test_a_query_that_is_not_finite_is_named_by_its_row() -> None:
    queries: Any = np.zeros((3, 4), np.float32)
    queries[2, 1] = np.nan
    with pytest.raises(ValueError, match="query of token id 2 is not finite"):
        score_rows(queries, PreparedKeys(np.ones((9, 4), np.float32)), k=1)
