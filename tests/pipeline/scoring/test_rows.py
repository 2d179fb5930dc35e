"""What the engine takes: keys that cannot be scored are refused; and what leaves a row's own key out."""

from __future__ import annotations

import numpy as np
import pytest

from qkatlas.pipeline.scoring.rows import PreparedKeys, not_own


def test_bad_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        PreparedKeys(np.ones((0, 3), np.float32))
    with pytest.raises(ValueError, match="'meta' is not supported"):
        PreparedKeys(np.ones((2, 3), np.float32), device="meta")


def test_a_row_loses_its_own_key_or_else_its_last() -> None:
    best_RK = np.array([[4, 1, 2], [1, 4, 2], [7, 8, 9]], np.int32)
    assert best_RK[not_own(best_RK, np.array([4, 2, 3]))].reshape(3, 2).tolist() == [[1, 2], [1, 4], [7, 8]]
