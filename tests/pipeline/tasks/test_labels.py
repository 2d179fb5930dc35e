"""When a head serves a task: against scipy, and against chances that are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from qkatlas.pipeline.tasks.labels import LEAST_SHARE, ByAnswer, entropy, false_shares, most_missed, one_sided, serves


def test_p_values_and_their_shares_are_scipys() -> None:
    differences = np.random.default_rng(0).normal(0.2, 1.0, (20, 9))
    p_values = one_sided(differences)
    np.testing.assert_allclose(p_values, stats.ttest_1samp(differences, 0, alternative="greater").pvalue, rtol=1e-12)
    np.testing.assert_allclose(false_shares(p_values), stats.false_discovery_control(p_values), rtol=1e-12)
    assert one_sided(np.zeros((5, 1))).item() == 1.0
    assert one_sided(np.ones((1, 1))).item() == 1.0


SURE: dict[str, Any] = {
    "solved": True, "gain": 2.0, "gain_false_share": 0.01,
    "effect_low": 0.1, "specific": 0.5, "specific_low": 0.2, "false_share": 0.001,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"solved": False}, {"gain_false_share": 0.06},
        {"effect_low": -0.01}, {"specific_low": 0.0}, {"specific": 2.0 * LEAST_SHARE * 0.99},
        {"false_share": 0.06}, {"false_share": float("nan")}, {"specific_low": float("nan")},
    ],
)  # fmt: skip
def test_each_condition_is_needed(changes: dict[str, Any]) -> None:
    assert serves(**SURE)
    assert not serves(**{**SURE, **changes})


def test_what_an_audit_bounds_is_what_chance_allows() -> None:
    rng = np.random.default_rng(0)
    for left, audited, hits in ((40, 16, 0), (40, 16, 2), (200, 16, 0)):
        most = most_missed(left, audited, hits)
        # Of so many served heads a sample has so few in at least one of 20 draws; of one more in fewer.
        chances = [(rng.hypergeometric(served, left - served, audited, 20_000) <= hits).mean()
                   for served in (most + hits, most + hits + 1)]  # fmt: skip
        assert chances[0] > 0.045
        assert chances[1] < 0.055
    assert most_missed(16, 16, 3) == 0
    assert most_missed(0, 0, 0) == 0


def test_entropy_is_that_of_the_shares() -> None:
    assert entropy([3.0]) == 0.0
    assert entropy([2.0, 2.0]) == pytest.approx(np.log(2))
    assert entropy([1.0, 3.0]) == pytest.approx(stats.entropy([1, 3]))


def test_prompts_with_the_same_answers_are_one_observation() -> None:
    groups = ByAnswer.of(np.array([[3, 1], [2, 2], [3, 1], [3, 2]]))
    np.testing.assert_array_equal(groups.size_G, [1, 2, 1])
    np.testing.assert_array_equal(groups.means(np.array([[1.0], [5.0], [3.0], [7.0]])), [[5.0], [2.0], [7.0]])
    # Copies of a few observations are no more sure than these are.
    few = np.random.default_rng(0).normal(0.5, 1.0, (7, 3))
    many = ByAnswer.of(np.repeat(np.arange(7), 9)[:, None]).means(np.repeat(few, 9, axis=0))
    np.testing.assert_allclose(one_sided(many), one_sided(few))
