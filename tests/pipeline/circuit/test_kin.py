"""Kin against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from qkatlas.pipeline.circuit.kin import kin_scores, nearest, unit_states
from qkatlas.pipeline.models.architecture import Norm
from qkatlas.pipeline.scoring.rows import PreparedKeys

LAYER = Norm(kind="layer", eps=1e-5)


@pytest.fixture(scope="module")
def states_VD() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((3000, 24)) * rng.uniform(0.1, 9, (3000, 1)) + 2).astype(np.float32)


def kin_of(states_VD: np.ndarray, threads: int = 2) -> tuple[np.ndarray, np.ndarray]:
    unit = PreparedKeys(unit_states(states_VD, LAYER, threads=threads))
    return nearest(unit, slice(0, len(states_VD)), threads=threads)


def test_kin_are_the_nearest_neighbours_of_scikit_learn(states_VD: np.ndarray) -> None:
    ids_VN, cosines_VN = kin_of(states_VD)
    centred_VD = states_VD.astype(np.float64) - states_VD.astype(np.float64).mean(1, keepdims=True)
    model = NearestNeighbors(n_neighbors=17, metric="cosine", algorithm="brute").fit(centred_VD)
    distances_VN, expected_VN = model.kneighbors(centred_VD)
    np.testing.assert_allclose(cosines_VN, 1 - distances_VN[:, 1:], atol=1e-6)
    assert (ids_VN == expected_VN[:, 1:]).mean() > 0.999
    assert not (ids_VN == np.arange(3000)[:, None]).any()


def test_kin_do_not_depend_on_threads_or_on_how_rows_are_cut(states_VD: np.ndarray) -> None:
    whole = kin_of(states_VD, threads=1)
    unit = PreparedKeys(unit_states(states_VD, LAYER, threads=3))
    pieces = [nearest(unit, slice(start, start + 750), threads=2) for start in range(0, 3000, 750)]
    for place in range(2):
        np.testing.assert_array_equal(np.concatenate([piece[place] for piece in pieces]), whole[place])


def test_duplicates_never_put_a_token_among_its_own_kin() -> None:
    rng = np.random.default_rng(1)
    states_VD = np.repeat(rng.standard_normal((4, 8)), 30, axis=0).astype(np.float32)
    ids_VN, cosines_VN = kin_of(states_VD)
    assert ids_VN.shape == (120, 16)
    for token, ids in enumerate(ids_VN):
        assert token not in ids
        assert len(set(ids.tolist())) == 16
        # Of 29 equal others the lowest ids are the kin.
        first = token - token % 30
        assert ids.tolist() == [other for other in range(first, first + 18) if other != token][:16]
    np.testing.assert_allclose(cosines_VN, 1, atol=1e-6)


@pytest.mark.parametrize(("size", "count"), [(1, 0), (2, 1), (17, 16), (18, 16)])
def test_small_vocabularies_have_fewer_kin(size: int, count: int) -> None:
    states_VD = np.random.default_rng(2).standard_normal((size, 5)).astype(np.float32)
    ids_VN, cosines_VN = kin_of(states_VD)
    assert ids_VN.shape == cosines_VN.shape == (size, count)


def test_constant_states_have_no_direction() -> None:
    states_VD = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(unit_states(states_VD, LAYER, threads=1), np.zeros((3, 4), np.float32))


def test_kin_scores_equal_brute_force(states_VD: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    queries_VH, keys_VH = rng.standard_normal((2, 3000, 7)).astype(np.float32)
    ids_VN, _ = kin_of(states_VD)
    scores_VV = queries_VH.astype(np.float64) @ keys_VH.T.astype(np.float64) * 0.5
    expected_V = np.take_along_axis(scores_VV, ids_VN.astype(np.int64), 1).mean(1)
    np.testing.assert_allclose(kin_scores(queries_VH, keys_VH, ids_VN, 0.5), expected_V, atol=1e-12)
    assert np.isnan(kin_scores(queries_VH[:1], keys_VH[:1], np.empty((1, 0), np.int32), 1.0)).all()


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 16, 63, 64, 65, 100, 127, 128, 129, 192, 256])
def test_kin_scores_have_the_bits_of_numpys_sums(width: int) -> None:
    rng = np.random.default_rng(width)
    spread = 10.0 ** rng.integers(-6, 7, (2, 90, width))  # so that another order of a sum would show
    queries_RH, keys_VH = (rng.standard_normal((2, 90, width)) * spread).astype(np.float32)
    kin_ids_RN = rng.integers(0, 90, (90, 16)).astype(np.int32)
    total_R = np.zeros(90)
    for ids_R in kin_ids_RN.T:
        total_R += (queries_RH.astype(np.float64) * keys_VH[ids_R]).sum(axis=1)
    found_R = kin_scores(queries_RH, keys_VH, kin_ids_RN, 0.125)
    np.testing.assert_array_equal(found_R.view(np.int64), (total_R * 0.125 / 16).view(np.int64))
    frozen = [np.asfortranarray(of) for of in (queries_RH, keys_VH, kin_ids_RN)]
    for of in frozen:
        of.flags.writeable = False  # as arrays come to a worker
    np.testing.assert_array_equal(kin_scores(frozen[0], frozen[1], frozen[2], 0.125), found_R)
