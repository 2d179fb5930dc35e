"""Summaries of a head against plain arithmetic and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from qkatlas.pipeline.circuit.summary import hub_summary, mean, mean_interval, rank_summary, self_summary, std


def test_columns_are_means_medians_and_shares() -> None:
    rank_V = np.array([1, 2, 10, 11, 1024, 1025, 4000, 1], np.int32)
    self_z_V = np.array([1.0, 2.0, np.nan, -1.0, 0.0, 0.0, 0.0, 0.0])
    kin_z_V = np.array([0.0, 4.0, 1.0, 1.0, 0.0, 0.0, 0.0, -2.0])
    row = self_summary(rank_V, self_z_V, kin_z_V, np.random.SeedSequence(0))
    assert row["self_rank_mean"] == pytest.approx(6074 / 8)
    assert row["self_rank_median"] == 10.5
    assert [row[f"self_top{n}_share"] for n in (1, 10, 1024)] == [2 / 8, 4 / 8, 6 / 8]
    assert row["self_mrr"] == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11 + 1 / 1024 + 1 / 1025 + 1 / 4000 + 1) / 8)
    assert row["self_z_mean"] == pytest.approx(2 / 7)
    assert row["kin_z_mean"] == pytest.approx(4 / 8)
    # The token without a self_z has no index: (-1 + 2 + 2 + 0 + 0 + 0 - 2) / 7.
    assert row["suppression_index_mean"] == pytest.approx(1 / 7)
    assert row["suppression_index_positive_share"] == pytest.approx(2 / 7)
    assert row["suppression_index_low"] <= 1 / 7 <= row["suppression_index_high"]


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(5).gamma(2.0, size=4000)
    low, high = mean_interval(values, np.random.SeedSequence(1))
    expected = bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", batch=100, random_state=3
    ).confidence_interval
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.08 * width)
    assert high == pytest.approx(expected.high, abs=0.08 * width)


def test_an_interval_follows_its_seed_alone() -> None:
    values = np.random.default_rng(6).standard_normal(500)
    first = mean_interval(values, np.random.SeedSequence([1, 2]))
    assert first == mean_interval(values, np.random.SeedSequence([1, 2]))
    assert first != mean_interval(values, np.random.SeedSequence([1, 3]))


def test_nothing_defined_gives_nothing() -> None:
    nothing = np.array([np.nan, np.nan])
    row = self_summary(np.array([1, 1], np.int32), nothing, nothing, np.random.SeedSequence(0))
    assert row["self_z_mean"] is row["suppression_index_mean"] is row["suppression_index_low"] is None


def test_shares_count_ranks() -> None:
    summary = rank_summary(np.array([1, 10, 11, 128, 129, 1024, 1025, 5000], np.int32), tops=(1, 10, 128, 1024))
    assert [summary[f"self_top{n}_share"] for n in (1, 10, 128, 1024)] == [1 / 8, 2 / 8, 4 / 8, 6 / 8]
    assert summary["self_rank_median"] == 128.5


def test_mean_and_deviation_leave_out_what_is_undefined() -> None:
    values = np.array([3.0, np.nan, 1.0, 8.0])
    assert mean(values) == np.nanmean(values)
    assert std(values) == np.nanstd(values)
    assert mean(values[1:2]) is None
    assert std(values[1:2]) is None


def test_a_hub_is_the_best_key_of_most_rows() -> None:
    assert hub_summary(np.array([7, 2, 2, 9, 7, 2], np.int32)) == {"hub_id": 2, "hub_share": 0.5}
    assert hub_summary(np.array([9, 3], np.int32)) == {"hub_id": 3, "hub_share": 0.5}


@pytest.mark.slow
def test_the_interval_of_self_z_holds_the_mean_of_the_law_it_is_drawn_from() -> None:
    held = 0
    for seed in range(200):
        self_z_V = np.random.default_rng(seed).exponential(2.0, 400)
        row = self_summary(np.ones(400, np.int32), self_z_V, self_z_V, np.random.SeedSequence(0))
        held += row["self_z_low"] < 2.0 < row["self_z_high"]
        assert row["self_z_high"] - row["self_z_mean"] == pytest.approx(1.959964 * self_z_V.std() / 20)
    assert 180 <= held <= 199
