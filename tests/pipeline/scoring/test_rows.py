"""What the engine takes: keys that cannot be scored are refused."""

from __future__ import annotations

import numpy as np
import pytest

from qkatlas.pipeline.scoring.rows import PreparedKeys


def test_bad_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        PreparedKeys(np.ones((0, 3), np.float32))
    with pytest.raises(ValueError, match="'meta' is not supported"):
        PreparedKeys(np.ones((2, 3), np.float32), device="meta")
