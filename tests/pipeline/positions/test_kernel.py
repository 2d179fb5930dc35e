"""Numbers of a kernel against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qkatlas.pipeline.positions.classes import CLASSES, NONE, classify
from qkatlas.pipeline.positions.kernel import by_offset, kernel_measures, quarters, translation_invariance


def exponential(length: float, offsets: int = 4000) -> np.ndarray:
    weight_O = np.exp(-np.arange(offsets) / length)
    return weight_O / weight_O.sum()


@pytest.mark.parametrize(("length", "width"), [(1, 2.16395), (5, 10.03331), (25, 50.00667)])
def test_an_exponential_kernel_has_the_width_and_length_of_its_closed_form(length: float, width: float) -> None:
    found = kernel_measures(exponential(length))
    assert found["width"] == pytest.approx(1 / math.tanh(1 / (2 * length)), rel=1e-9)
    assert found["width"] == pytest.approx(width, abs=5e-6)
    assert found["decay_length"] == pytest.approx(length, rel=1e-9)
    assert found["decay_r2"] == pytest.approx(1, abs=1e-9)
    ratio = math.exp(-1 / length)
    assert found["mean_offset"] == pytest.approx(ratio / (1 - ratio), rel=1e-6)
    assert found["self_share"] == pytest.approx(1 - ratio)
    assert found["previous_share"] == pytest.approx((1 - ratio) * ratio)
    assert found["local_share"] == pytest.approx(1 - ratio**8)
    assert found["half_offset"] == math.ceil(length * math.log(2)) - 1


def test_equal_shares_have_no_decay_and_rising_ones_no_length() -> None:
    flat = kernel_measures(np.full(40, 1 / 40))
    assert (flat["decay_length"], flat["decay_r2"]) == (None, None)
    assert flat["width"] == pytest.approx(40)
    assert flat["half_offset"] == 19
    rising = kernel_measures(exponential(5, 60)[::-1].copy())
    assert rising["decay_length"] is None
    assert rising["decay_r2"] == pytest.approx(1)


def test_the_decay_is_weighted_by_the_share() -> None:
    """Far offsets of little share hardly count; unweighted, the line would be theirs."""
    share_O = np.concatenate([np.exp(-np.arange(10.0)), np.full(200, 1e-7)])
    share_O /= share_O.sum()
    found = kernel_measures(share_O)
    slope, _ = np.polyfit(np.arange(210), np.log(share_O), 1, w=np.sqrt(share_O))
    assert found["decay_length"] == pytest.approx(-1 / slope)
    assert found["decay_length"] == pytest.approx(1.18, abs=0.01)


def test_offsets_count_back_from_the_destination_and_leave_bos_out() -> None:
    np.testing.assert_array_equal(by_offset(np.arange(6.0), 4), [4, 3, 2, 1])


def patterns(kappa_TT: np.ndarray, destination_R: np.ndarray) -> np.ndarray:
    share_RT = np.zeros((len(destination_R), kappa_TT.shape[1]))
    for row, n in enumerate(destination_R):
        weight = np.exp(kappa_TT[n, 1 : n + 1])
        share_RT[row, 1 : n + 1] = weight / weight.sum()
    return share_RT


def test_what_moves_along_is_invariant_and_what_is_shuffled_is_not() -> None:
    n_R, at = quarters(64), np.arange(64)
    np.testing.assert_array_equal(n_R, [16, 32, 48, 63])
    moving = patterns(-np.abs(at[:, None] - at) / 5, n_R)
    assert translation_invariance(moving, n_R) == pytest.approx(1, abs=1e-12)
    order = np.random.default_rng(0).permutation(64)
    shuffled = translation_invariance(patterns((-np.abs(at[:, None] - at) / 5)[:, order], n_R), n_R)
    assert shuffled is not None
    assert shuffled < 0.4
    assert translation_invariance(moving[:1], n_R[:1]) is None


def test_invariance_of_two_destinations_is_counted_by_hand() -> None:
    share_RT = np.array([[0, 0.25, 0.75, 0, 0], [0, 0.1, 0.2, 0.3, 0.4]])
    # On offsets 0 and 1: .75, .25 against .4 / .7, .3 / .7.
    expected = 1 - abs(0.75 - 4 / 7)
    assert translation_invariance(share_RT, np.array([2, 4])) == pytest.approx(expected)


ROW = {"previous_share": 0.1, "tv_position": 0.5, "local_share": 0.3, "translation_invariance": 0.99, "width": 30.0,
       "equal_share": 0.1, "denominator_cv_between": 0.1, "tv_fixed": 0.2, "bos_share": 0.5,
       "tv_uniform": 0.8}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "contextual"),
        ({"previous_share": 0.6, "tv_position": 0.1}, "previous"),
        ({"previous_share": 0.6, "tv_position": 0.5, "local_share": 0.7}, "detokenisation"),
        ({"previous_share": 0.6, "tv_position": 0.7, "local_share": 0.7}, NONE),
        ({"local_share": 0.7, "translation_invariance": 0.5}, NONE),
        ({"local_share": 0.7, "translation_invariance": None}, "detokenisation"),
        ({"equal_share": 0.5}, "duplicate"),
        ({"tv_position": 0.1}, "positional"),
        ({"tv_position": 0.11, "tv_fixed": 0.11, "tv_uniform": 0.12}, NONE),
        ({"tv_position": 0.1, "bos_share": 0.9}, "sink"),
        ({"tv_fixed": 0.7}, NONE),
        ({"tv_fixed": 0.7, "bos_share": 0.9}, "sink"),
        ({"equal_share": None}, "contextual"),
    ],
)
def test_the_first_class_that_holds_gives_the_name(changes: dict[str, float | None], name: str) -> None:
    found, margin = classify({**ROW, **changes})
    assert found == name
    assert (margin >= 0) == (name != NONE)


def test_a_margin_is_that_of_the_nearest_bound() -> None:
    bound = {condition.column: condition.bound for condition in CLASSES["contextual"]}
    nearest = min(
        (30 - bound["width"]) / bound["width"],
        (bound["denominator_cv_between"] - 0.1) / bound["denominator_cv_between"],
        (bound["tv_fixed"] - 0.2) / bound["tv_fixed"],
        (bound["fixed_left"] - 0.2 / 0.8) / bound["fixed_left"],
        (bound["position_left"] - 0.5 / 0.8) / bound["position_left"],
        (0.99 - bound["translation_invariance"]) / bound["translation_invariance"],
        (bound["bos_share"] - 0.5) / bound["bos_share"],
    )
    assert classify(ROW)[1] == pytest.approx(nearest)
    name, margin = classify({**ROW, "tv_fixed": 1.1 * bound["tv_fixed"]})
    assert (name, margin) == (NONE, pytest.approx(-0.1))
