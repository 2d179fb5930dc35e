"""Canonical arithmetic against the documented tree, exact sums, and NumPy."""

from __future__ import annotations

import math

import numpy as np
import reference
import torch
from support.keys import spread_keys

from qkatlas.pipeline.scoring.exact import canonical_dots, key_moments, row_moments


def test_canonical_dot_is_the_documented_tree() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 2, 3, 5, 8, 9, 16, 31, 33, 64, 100, 128):
        queries = rng.standard_normal((6, width)).astype(np.float32)
        keys = (rng.standard_normal((7, width)) * 10.0 ** rng.integers(-6, 6, width)).astype(np.float32)
        expected = reference.tree_dots(queries, keys)
        np.testing.assert_array_equal(canonical_dots(queries[:, None], keys[None]), expected)
        sums = [math.fsum(float(a) * float(b) for a, b in zip(queries[0], key, strict=True)) for key in keys]
        np.testing.assert_allclose(expected[0], sums, rtol=1e-12, atol=1e-12 * np.abs(keys).max())


def test_row_moments_are_order_free_and_accurate() -> None:
    queries, keys = spread_keys(5000, 64)
    moments = key_moments(keys)
    permuted = key_moments(keys[np.random.default_rng(1).permutation(5000)])
    torch.testing.assert_close(moments.mean_H, permuted.mean_H, rtol=0, atol=0)
    for one, other in zip(moments.covariance_pieces, permuted.covariance_pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    mean_R, std_R = row_moments(torch.from_numpy(queries[:300]), moments)
    one_by_one = [row_moments(torch.from_numpy(queries[r : r + 1]), moments) for r in range(300)]
    np.testing.assert_array_equal(mean_R.numpy(), [float(mean) for mean, _ in one_by_one])
    np.testing.assert_array_equal(std_R.numpy(), [float(std) for _, std in one_by_one])
    dots = queries[:300].astype(np.float64) @ keys.T.astype(np.float64)
    np.testing.assert_allclose(mean_R.numpy(), dots.mean(axis=1), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(std_R.numpy(), dots.std(axis=1), rtol=1e-11)


def test_moments_survive_one_huge_outlier() -> None:
    queries, keys = spread_keys(3000, 8)
    keys[7] *= 1e6
    mean_R, std_R = row_moments(torch.from_numpy(queries), key_moments(keys))
    dots = queries.astype(np.float64) @ keys.T.astype(np.float64)
    np.testing.assert_allclose(std_R.numpy(), dots.std(axis=1), rtol=1e-9, atol=1e-9 * dots.std())
    np.testing.assert_allclose(mean_R.numpy(), dots.mean(axis=1), rtol=1e-9, atol=1e-9)
