"""Hubs are the keys that many rows rank first; lists without them are what is left, in order."""

from __future__ import annotations

import numpy as np
import pytest

from qkatlas.pipeline.circuit.hubs import Hubs, most_hubs, without_keys
from qkatlas.pipeline.scoring.rows import RowScores


def test_hubs_are_the_best_key_of_a_share_of_rows() -> None:
    best_id_R = np.array([7] * 5 + [3] * 6 + [9] * 5 + [1, 2, 4, 5], np.int32)
    found = Hubs.among(best_id_R, 0.25)
    assert (found.ids_N.tolist(), found.rows_N.tolist(), found.of) == ([3, 7, 9], [6, 5, 5], 20)
    assert Hubs.among(best_id_R, 0.3).ids_N.tolist() == [3]
    assert Hubs.among(best_id_R, 0.31).ids_N.tolist() == []


@pytest.mark.parametrize(("share", "most"), [(1.0, 1), (0.5, 2), (0.3, 3), (0.1, 10), (0.05, 20), (0.01, 100)])
def test_there_are_no_more_hubs_than_shares(share: float, most: int) -> None:
    assert most_hubs(share) == most
    assert len(Hubs.among(np.repeat(np.arange(most, dtype=np.int32), 6), share).ids_N) == most


def test_lists_without_keys_are_the_best_of_the_others() -> None:
    rng = np.random.default_rng(0)
    scores_RV = rng.standard_normal((8, 12)).astype(np.float32)
    order_RV = np.argsort(-scores_RV, axis=1).astype(np.int32)
    rows = RowScores.unfilled(8, k=6, vocabulary_size=12)
    rows.key_ids_RK[:] = order_RV[:, :6]
    rows.scores_RK[:] = np.take_along_axis(scores_RV, order_RV[:, :6], axis=1)
    left_out = np.array([4, 0], np.int32)
    found = without_keys(rows, left_out, 4)
    scores_RV[:, left_out] = -np.inf
    expected_RK = np.argsort(-scores_RV, axis=1)[:, :4]
    np.testing.assert_array_equal(found.key_ids_RK, expected_RK)
    np.testing.assert_array_equal(found.scores_RK, np.take_along_axis(scores_RV, expected_RK, axis=1))
    assert found.self_rank_R is rows.self_rank_R
