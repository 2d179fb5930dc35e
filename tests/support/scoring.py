"""What tests of the scoring engine share: comparison with brute force, and a choice of tiles."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference

from qkatlas.pipeline.scoring import cpu
from qkatlas.pipeline.scoring.cpu_tiling import Tiling
from qkatlas.pipeline.scoring.rows import RowScores

Matrix = npt.NDArray[np.float32]


def check_rows(result: RowScores, queries: Matrix, keys: Matrix, row_ids: Any, k: int, scale: float) -> None:
    """Assert every field of every row against sorting the whole row of float64 dot products."""
    dots_RV = reference.tree_dots(queries, keys)
    count = len(keys)
    with np.errstate(over="ignore"):
        for r, own in enumerate(row_ids):
            order = np.lexsort((np.arange(count), -dots_RV[r]))
            np.testing.assert_array_equal(result.key_ids_RK[r], order[:k])
            np.testing.assert_array_equal(result.scores_RK[r], (dots_RV[r, order[:k]] * scale).astype(np.float32))
            assert result.self_rank_R[r] == 1 + np.sum(dots_RV[r] > dots_RV[r, own])
            assert result.self_score_R[r] == np.float32(dots_RV[r, own] * scale)
            if count > 1:
                other = order[order != own][0]
                assert result.best_other_id_R[r] == other
                assert result.best_other_score_R[r] == np.float32(dots_RV[r, other] * scale)
            # A closed form cannot resolve deviations far below |q| |k|: its squares cancel in float64.
            size = (
                scale
                * np.linalg.norm(queries[r].astype(np.float64))
                * np.linalg.norm(keys.astype(np.float64), axis=1).max()
            )
            assert abs(result.row_mean_R[r] - scale * dots_RV[r].mean()) <= 1e-13 * size
            std = scale * dots_RV[r].std()
            assert abs(result.row_std_R[r] - std) <= max(1e-9 * std, 1e-6 * size)


def force(monkeypatch: pytest.MonkeyPatch, tiling: Tiling) -> None:
    monkeypatch.setattr(cpu, "choose_tiling", lambda kept, count: tiling)


def assert_same_bits(one: RowScores, other: RowScores) -> None:
    for field in fields(RowScores):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert left.dtype == right.dtype
        assert left.tobytes() == right.tobytes(), field.name
