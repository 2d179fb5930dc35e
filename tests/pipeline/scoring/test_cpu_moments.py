"""The compiled row moments against the torch ones, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.keys import spread_keys

from qkatlas.pipeline.scoring import cpu_moments
from qkatlas.pipeline.scoring.exact import key_moments, row_moments


@pytest.mark.parametrize("width", [1, 3, 16, 31, 64, 100])
def test_compiled_row_moments_have_the_bits_of_the_torch_ones(width: int) -> None:
    queries, keys = spread_keys(900, width)
    queries[3] = 0
    queries[4] *= np.float32(1e-38)
    queries[5] *= np.float32(1e30)
    queries[6] = 2.0
    moments = key_moments(keys)
    mean_R, std_R = row_moments(torch.from_numpy(queries), moments)
    compiled_mean_R, compiled_std_R = cpu_moments.row_moments(queries, moments)
    np.testing.assert_array_equal(compiled_mean_R, mean_R.numpy())
    np.testing.assert_array_equal(compiled_std_R, std_R.numpy())
