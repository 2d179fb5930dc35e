"""Measures of an approximation against scikit-learn, SciPy and loops; latents and components of planted data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, cohen_kappa_score, r2_score

from qkatlas.pipeline.neurons.components import independent_components
from qkatlas.pipeline.neurons.extended import Moments
from qkatlas.pipeline.neurons.fit import (
    between_documents,
    correlation,
    kappa_of_signs,
    log_ratio,
    unexplained,
    weighted_correlation,
)
from qkatlas.pipeline.neurons.groups import random_groups
from qkatlas.pipeline.neurons.latents import find_latents

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((60, 4)) + np.array([0, 1, -1, 0])
OTHER = 0.7 * REAL + 0.4 * RNG.standard_normal((60, 4)) + 0.1


def test_correlation_unexplained_and_kappa_are_those_of_libraries() -> None:
    expected = [np.corrcoef(REAL[:, j], OTHER[:, j])[0, 1] for j in range(4)]
    np.testing.assert_allclose(correlation(REAL, OTHER), expected)
    np.testing.assert_allclose(unexplained(REAL, OTHER), [1 - r2_score(REAL[:, j], OTHER[:, j]) for j in range(4)])
    kappas = [cohen_kappa_score(REAL[:, j] > 0, OTHER[:, j] > 0) for j in range(4)]
    np.testing.assert_allclose(kappa_of_signs(REAL, OTHER), kappas)


def test_what_does_not_vary_has_no_correlation() -> None:
    constant = np.full((60, 1), 3.7)
    assert np.isnan(correlation(constant, OTHER[:, :1])).all()
    assert np.isnan(correlation(REAL[:, :1], constant)).all()
    assert np.isnan(unexplained(constant, OTHER[:, :1])).all()
    assert np.isnan(between_documents(constant, 6)).all()
    assert np.isnan(kappa_of_signs(constant, constant)).all()


def test_share_between_documents_is_that_of_a_planted_effect() -> None:
    """The usual table of squares of one way, by loops, and what it tends to: 4 / (4 + 1)."""
    effect = 2 * RNG.standard_normal((400, 1))
    values = (effect + RNG.standard_normal((400, 5))).reshape(-1, 1)
    found = float(between_documents(values, 400)[0])
    assert found == pytest.approx(0.8, abs=0.05)
    groups = values.reshape(400, 5)
    between = sum(5 * (one.mean() - groups.mean()) ** 2 for one in groups) / 399
    within = sum(((one - one.mean()) ** 2).sum() for one in groups) / (400 * 4)
    assert found == pytest.approx((between - within) / (between + 4 * within))
    assert abs(float(between_documents(RNG.permutation(values), 400)[0])) < 0.1


def test_naive_bayes_of_counts() -> None:
    a, b = np.array([3, 0, 1, 6]), np.array([1, 2, 0, 0])
    expected = [np.log((x + 0.5) / 12) - np.log((y + 0.5) / 5) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(log_ratio(a, b), expected)
    weight = (a + b).astype(float)
    values = np.stack([2 * np.array(expected) - 5, -np.array(expected), np.ones(4)], axis=1)
    np.testing.assert_allclose(weighted_correlation(values, np.array(expected), weight), [1, -1, np.nan])
    noisy = values + RNG.standard_normal(values.shape)
    repeated = np.repeat(np.arange(4), a + b)
    r = np.corrcoef(noisy[repeated, 0], np.array(expected)[repeated])[0, 1]
    assert weighted_correlation(noisy, np.array(expected), weight)[0] == pytest.approx(r)


def test_two_planted_topics_are_two_latents() -> None:
    topic = np.repeat([0, 1], 60)
    values = np.eye(2)[topic] + 0.1 * RNG.standard_normal((120, 2))
    values = np.c_[values, 0.2 * RNG.standard_normal((120, 30))]
    order = RNG.permutation(120)
    found = find_latents(values[order], resolution=0.3, seed=0, layer=0, neuron=7)
    assert adjusted_rand_score(topic[order], found.latent_S) == 1
    np.testing.assert_allclose(found.stability_K, 1)
    none = find_latents(RNG.standard_normal((120, 300)), resolution=0.3, seed=0, layer=0, neuron=7)
    assert len(none.stability_K) == 0
    assert (none.latent_S == -1).all()


@pytest.mark.slow
def test_independent_components_are_found_and_normal_ones_do_not_come_back() -> None:
    sources = np.c_[RNG.laplace(size=(3000, 3)), RNG.standard_normal((3000, 3))]
    sources = (sources - sources.mean(0)) / sources.std(0)
    mixed = (sources @ RNG.standard_normal((6, 12))).astype(np.float32)
    weight = np.full(3000, 1 / 3000)
    moments = Moments(mean_D=mixed.mean(0).astype(float), covariance_DD=np.cov(mixed.T.astype(float), bias=True))
    found = independent_components(mixed, weight, moments, seed=0, layer=0)
    assert found is not None
    match = np.abs(np.corrcoef(found.value_VK.T, sources.T)[:6, 6:])
    planted = match[:, :3].max(axis=1) > 0.9
    assert planted.sum() == 3
    assert set(match[planted][:, :3].argmax(axis=1)) == {0, 1, 2}
    assert (found.stability_K[planted] > 0.9).all()
    assert (found.kurtosis_K[planted] > 1).all()
    assert (np.abs(found.kurtosis_K[~planted]) < 0.6).all()
    assert found.share_K.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        found.value_VK @ found.direction_DK.T, mixed - moments.mean_D, atol=1e-4
    )  # fmt: skip


def test_random_groups_differ_from_the_group_and_each_other() -> None:
    group = (0, 2, 6)
    found = random_groups(group, 12, seed=3)
    assert len(set(found)) == 8
    assert group not in found
    assert all(len(one) == 3 and one == tuple(sorted(one)) for one in found)
    assert found == random_groups(group, 12, seed=3) != random_groups(group, 12, seed=4)
    assert random_groups((0, 1), 3, seed=0) == [(0, 2), (1, 2)]
    assert random_groups((0, 1), 2, seed=0) == []
