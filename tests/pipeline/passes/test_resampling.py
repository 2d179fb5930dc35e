"""Paired bootstrap intervals: against SciPy, and as ratios where passages count differently."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from qkatlas.pipeline.passes.resampling import PairedBootstrap


def test_intervals_are_those_of_scipy() -> None:
    differences_PN = np.random.default_rng(0).exponential(size=(40, 3)) - np.array([0.5, 1.0, 2.0])
    low_N, high_N = PairedBootstrap(np.ones(40), seed=0).interval(differences_PN)
    for place in range(3):
        values_P = differences_PN[:, place]
        expected = stats.bootstrap((values_P,), np.mean, n_resamples=20000, method="percentile", rng=1)
        width = expected.confidence_interval.high - expected.confidence_interval.low
        assert low_N[place] == pytest.approx(expected.confidence_interval.low, abs=0.08 * width)
        assert high_N[place] == pytest.approx(expected.confidence_interval.high, abs=0.08 * width)


def test_passages_count_by_their_weight() -> None:
    rng = np.random.default_rng(3)
    sums_P, tokens_P = rng.normal(size=30), rng.integers(1, 20, 30).astype(float)
    low_1, high_1 = PairedBootstrap(tokens_P, seed=0).interval((sums_P / tokens_P)[:, None])

    def ratio(sums: np.ndarray, tokens: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / tokens.sum(axis)

    expected = stats.bootstrap(
        (sums_P, tokens_P), ratio, paired=True, vectorized=True, n_resamples=20000, method="percentile", rng=1
    ).confidence_interval
    assert low_1[0] == pytest.approx(expected.low, abs=0.08 * (expected.high - expected.low))
    assert high_1[0] == pytest.approx(expected.high, abs=0.08 * (expected.high - expected.low))


def test_every_difference_sees_the_same_resamples() -> None:
    bootstrap = PairedBootstrap(np.ones(12), seed=5)
    change_P = np.random.default_rng(1).normal(size=12)
    low_2, high_2 = bootstrap.interval(np.stack([change_P, 2 * change_P + 1], axis=1))
    assert low_2[1] == pytest.approx(2 * low_2[0] + 1)
    assert high_2[1] == pytest.approx(2 * high_2[0] + 1)
    again = PairedBootstrap(np.ones(12), seed=5).interval(change_P[:, None])
    assert (again[0][0], again[1][0]) == pytest.approx((low_2[0], high_2[0]), rel=1e-12)
