"""The similarity curve against NumPy over the whole V x V."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkatlas.pipeline.circuit.kin import unit_states
from qkatlas.pipeline.circuit.projection import HeadInputs
from qkatlas.pipeline.circuit.similarity import PairSums, ScoreRange, curve, landmarks, pair_sums, self_scores
from qkatlas.pipeline.models.architecture import Norm

LAYER = Norm(kind="layer", eps=1e-5)


def random_head(seed: int, vocab: int, d_model: int, d_head: int) -> tuple[np.ndarray, HeadInputs]:
    rng = np.random.default_rng(seed)
    states_VD = (rng.standard_normal((vocab, d_model)) + rng.standard_normal(d_model)).astype(np.float32)
    queries, keys = (rng.standard_normal((vocab, d_head)).astype(np.float32) for _ in range(2))
    return unit_states(states_VD, LAYER, threads=1), HeadInputs(queries, keys, 0.25)


def add(parts: list[PairSums]) -> PairSums:
    names = ("counts_CB", "sums_C", "squares_C", "self_pairs_C")
    return PairSums(**{name: sum(getattr(part, name) for part in parts) for name in names})


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocab=st.integers(1, 60),
    d_model=st.integers(2, 20),
    bins=st.sampled_from([1, 7, 20, 50]),
)
def test_the_curve_equals_numpy(seed: int, vocab: int, d_model: int, bins: int) -> None:
    unit_VD, inputs = random_head(seed, vocab, d_model, 5)
    scores = ScoreRange.of(inputs)
    cut = vocab // 2
    halves = [slice(0, cut), slice(cut, vocab)]
    found = curve(add([pair_sums(unit_VD, inputs, part, scores, bins, threads=2) for part in halves]), scores)

    cosines_VV = unit_VD.astype(np.float64) @ unit_VD.astype(np.float64).T
    dots_VV = inputs.queries_VH.astype(np.float64) @ inputs.keys_VH.astype(np.float64).T
    difference_VV = (dots_VV - np.diag(dots_VV)[:, None]) * 0.25
    assert found.counts_C.sum() == vocab**2
    assert found.self_pairs_C.sum() == vocab
    # Pairs within rounding of an edge may lie on either side of it; with none of these, every bin is NumPy's.
    place_VV = (cosines_VV + 1) / 2 * bins
    inner_VV = (place_VV > 0.5) & (place_VV < bins - 0.5)
    unclear = (np.abs(place_VV - np.rint(place_VV)) < 1e-5) & inner_VV
    if unclear.any():
        return
    number_VV = np.clip(place_VV.astype(int), 0, bins - 1)
    for number in range(bins):
        inside = difference_VV[number_VV == number]
        assert found.counts_C[number] == len(inside)
        if not len(inside):
            assert np.isnan(found.mean_C[number])
            assert np.isnan(found.quartiles_3C[:, number]).all()
            continue
        assert found.mean_C[number] == pytest.approx(inside.mean(), abs=1e-5)
        assert found.std_C[number] == pytest.approx(inside.std(), abs=1e-5)
        exact = np.quantile(inside, [0.25, 0.5, 0.75], method="inverted_cdf")
        np.testing.assert_allclose(found.quartiles_3C[:, number], exact, atol=found.quartile_error + 1e-5)
    assert scores.low <= difference_VV.min()
    assert difference_VV.max() <= scores.low + 8192 * scores.step


def test_sums_do_not_depend_on_threads_and_span_tiles_and_blocks() -> None:
    unit_VD, inputs = random_head(3, 2300, 8, 4)  # more rows than a block, more keys than a tile
    scores = ScoreRange.of(inputs)
    one, three = (pair_sums(unit_VD, inputs, slice(0, 700), scores, 40, threads=threads) for threads in (1, 3))
    for name in ("counts_CB", "sums_C", "squares_C", "self_pairs_C"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
    cosines = unit_VD[:700].astype(np.float64) @ unit_VD.astype(np.float64).T
    own = self_scores(inputs)[:700, None]
    difference = inputs.queries_VH[:700].astype(np.float64) @ inputs.keys_VH.astype(np.float64).T * 0.25 - own
    counts, _ = np.histogram(np.clip(cosines, -1, 1), bins=np.linspace(-1, 1, 41))
    sums, _ = np.histogram(np.clip(cosines, -1, 1), bins=np.linspace(-1, 1, 41), weights=difference)
    assert np.abs(one.counts_CB.sum(axis=1) - counts).max() <= 3  # of 40,000 a bin: pairs at an edge
    np.testing.assert_allclose(one.sums_C, sums, atol=5)


def test_a_head_of_zeros_has_a_flat_curve() -> None:
    unit_VD, _ = random_head(0, 9, 6, 2)
    inputs = HeadInputs(np.zeros((9, 2), np.float32), np.zeros((9, 2), np.float32), 1.0)
    scores = ScoreRange.of(inputs)
    found = curve(pair_sums(unit_VD, inputs, slice(0, 9), scores, 4, threads=1), scores)
    filled = found.counts_C > 0
    np.testing.assert_array_equal(found.mean_C[filled], 0)
    assert np.abs(found.quartiles_3C[:, filled]).max() <= found.quartile_error


def test_landmarks_leave_out_self_pairs_and_thin_bins() -> None:
    edges = np.linspace(-1, 1, 9)
    counts = np.array([2, 1000, 1000, 1000, 1000, 1000, 500, 60])
    own = np.array([0, 0, 0, 0, 0, 0, 0, 50])
    mean = np.array([9.0, -4.0, -2.0, -1.0, 1.0, 3.0, 2.0, 8.0])
    found = landmarks(edges, counts, own, mean, least=100)
    assert found is not None
    assert (found.peak, found.height) == (0.375, 3.0)
    assert found.crossing == pytest.approx(0.0)  # halfway between the centres -0.125 and 0.125
    with_last = landmarks(edges, counts, own, mean, least=10)
    assert with_last is not None
    assert (with_last.peak, with_last.height) == (0.875, 48.0)
    falling = landmarks(edges, counts, own, -np.arange(8.0), least=3)
    assert falling is not None
    assert falling.crossing is None
    assert landmarks(edges, counts, own, mean, least=10_000) is None
