"""Likeness of a head's features: mean cosines by hand, and a null of features of equal density."""

from __future__ import annotations

import numpy as np
import pytest

from qkatlas.pipeline.features.similarity import LEVEL, equally_dense, likeness, null_features, unit_rows

F, E = 600, 40


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    rows = np.random.default_rng(0).standard_normal((F, E)) + 0.3
    rows[3] = 0
    rows[4, 2] = np.nan
    rows[5] = np.nan  # two without a direction
    unit = unit_rows(rows)
    chosen, null = np.arange(10), np.arange(20, 520).reshape(50, 10)
    found = likeness(unit, chosen, null)
    assert found.value == pytest.approx(by_hand(rows, chosen), abs=1e-6)
    values = [by_hand(rows, drawn) for drawn in null]
    assert found.null_mean == pytest.approx(np.mean(values), abs=1e-6)
    assert found.null_std == pytest.approx(np.std(values), abs=1e-6)
    assert found.null_high == pytest.approx(np.quantile(values, LEVEL), abs=1e-6)
    assert found.z == pytest.approx((found.value - found.null_mean) / found.null_std)
    assert found.passes == (found.value > found.null_high)


def by_hand(rows: np.ndarray, chosen: np.ndarray) -> float:
    alive = [np.nan_to_num(rows[one]) for one in chosen if np.nan_to_num(rows[one]).any()]
    pairs = [(a, b) for place, a in enumerate(alive) for b in alive[:place]]
    return float(np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))


def test_too_few_directions_are_no_likeness() -> None:
    rows = np.zeros((F, E))
    rows[0, 0] = 1
    found = likeness(unit_rows(rows), np.arange(10), np.arange(100, 200).reshape(10, 10))
    assert np.isnan(found.value)
    assert np.isnan(found.null_mean)
    assert not found.passes


def test_a_null_is_of_other_features_of_equal_density() -> None:
    rng = np.random.default_rng(1)
    density = rng.permutation(np.geomspace(1e-4, 0.5, F))
    chosen = np.argsort(density)[np.array([5, 60, 200, 201, 202, 300, 400, 500, 550, 598])]
    drawn = equally_dense(chosen, density, draws=400, rng=rng)
    assert drawn.shape == (400, 10)
    assert not np.isin(drawn, chosen).any()
    assert all(len(set(row)) == 10 for row in drawn.tolist())
    rank = np.argsort(np.argsort(density))
    assert np.abs(rank[drawn] - rank[chosen]).max() <= 45  # 40 near, those at either end of the order on one side
    spread = [len(set(column)) for column in drawn.T.tolist()]
    assert min(spread) == max(spread) == 40
    shuffled = density[rng.permutation(F)]
    assert np.abs(np.argsort(np.argsort(shuffled))[drawn] - rank[chosen]).max() > 100


def test_silent_features_are_replaced_by_silent_ones() -> None:
    density = np.zeros(F)
    density[:200] = np.linspace(0.1, 0.2, 200)
    chosen = np.arange(300, 310)
    drawn = equally_dense(chosen, density, draws=200, rng=np.random.default_rng(0))
    assert (density[drawn] == 0).mean() > 0.99


def test_draws_are_of_the_seed_and_the_head() -> None:
    density = np.linspace(0, 1, F)
    first, same, other = (
        null_features(np.arange(10), density, seed=seed, layer=1, head=head) for seed, head in ((0, 2), (0, 2), (0, 3))
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_random_tens_pass_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(3)
    unit, density = unit_rows(rng.standard_normal((F, E))), rng.random(F)
    passed = 0
    for trial in range(200):
        chosen = rng.permutation(F)[:10]
        passed += likeness(unit, chosen, equally_dense(chosen, density, draws=300, rng=rng)).passes
        assert trial < 200
    assert passed <= 9  # 2 are expected; more than 9 come about once in 20000 such tests
