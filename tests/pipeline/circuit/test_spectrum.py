"""Spectra, self energy and their null (about 8 s): against dense NumPy, the planted truth and sums over tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qkatlas.pipeline.circuit.projection import bilinear_factors
from qkatlas.pipeline.circuit.spectrum import SpectrumNull, compare_with_null, head_spectrum, second_moment, self_energy
from qkatlas.pipeline.circuit.states import TokenStates, normalise
from qkatlas.pipeline.models.architecture import Norm
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.head import Head

Array = NDArray[np.float64]


@pytest.fixture
def torch_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def gaussian_factors(d_model: int, d_head: int, seed: int = 0) -> tuple[Array, Array]:
    w_q, w_k = np.random.default_rng(seed).standard_normal((2, d_model, d_head))
    return w_q, w_k


def with_eigenvalues(eigenvalues: list[float], d_model: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Factors of a symmetric W' = U diag(eigenvalues) U^T of rank H, and U."""
    frame, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d_model, len(eigenvalues))))
    return frame * eigenvalues, frame, frame


def dense_null(singular_values: Array, moment: Array, draws: int, seed: int) -> Array:
    """[draws, 3] positive and negative self energy and count, from D x D matrices of two separate random frames."""
    rng = np.random.default_rng(seed)
    n, d_model = len(singular_values), len(moment)
    figures = []
    for _ in range(draws):
        frames = []
        for _ in range(2):
            q, r = np.linalg.qr(rng.standard_normal((d_model, n)))
            frames.append(q * np.sign(np.diag(r)))
        w = frames[0] @ np.diag(singular_values) @ frames[1].T
        values, vectors = np.linalg.eigh((w + w.T) / 2)
        terms = values * np.einsum("di,de,ei->i", vectors, moment, vectors)
        largest = values[np.argsort(-np.abs(values))[:n]]
        figures.append((terms[values > 0].sum(), terms[values < 0].sum(), (largest < 0).sum()))
    return np.array(figures, dtype=np.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**31))
def test_spectrum_equals_a_dense_decomposition(d_model: int, d_head: int, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    d_head, rank = min(d_head, d_model), min(rank, d_head, d_model)
    # Of any rank, zero included; D < 2H wherever the two sizes allow it.
    w_q, w_k = (rng.standard_normal((d_model, rank)) @ rng.standard_normal((rank, d_head)) for _ in range(2))
    w = w_q @ w_k.T
    found = head_spectrum(w_q, w_k)
    sym, skew, size = (w + w.T) / 2, (w - w.T) / 2, 2 * d_head

    dense = np.linalg.eigvalsh(sym)
    dense = dense[np.argsort(-np.abs(dense))][:size]  # the others are zeros
    dense = np.sort(np.pad(dense, (0, size - len(dense))))[::-1]
    scale = max(1.0, np.abs(w).max())
    np.testing.assert_allclose(found.eigenvalues_2H, dense, atol=1e-9 * scale)
    assert (np.diff(found.eigenvalues_2H) <= 0).all()
    for ours, matrix, n in (
        (found.singular_values_H, w, d_head),
        (found.sym_singular_values_2H, sym, size),
        (found.skew_singular_values_2H, skew, size),
    ):
        expected = np.linalg.svd(matrix, compute_uv=False)[:n]
        np.testing.assert_allclose(ours, np.pad(expected, (0, n - len(expected))), atol=1e-9 * scale)
    for ours, matrix in ((found.norm, w), (found.sym_norm, sym), (found.skew_norm, skew)):
        assert ours == pytest.approx(np.linalg.norm(matrix), abs=1e-9 * scale)

    vectors = found.eigenvectors_D2H
    assert vectors.shape == (d_model, size)
    np.testing.assert_allclose(vectors * found.eigenvalues_2H @ vectors.T, sym, atol=1e-9 * scale)
    filled = max(0, size - d_model)
    assert (vectors == 0).all(axis=0).sum() == filled
    if not filled:
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(size), atol=1e-9)


def test_more_than_h_eigenvalues_are_not_zero_and_the_skew_part_is_seen() -> None:
    # W' = 6 e0 e1^T: its symmetric part swaps e0 and e1 with eigenvalues 3 and -3, and so does its skew part.
    w_q, w_k = np.zeros((2, 5, 1))
    w_q[0], w_k[1] = 2.0, 3.0
    found = head_spectrum(w_q, w_k)
    np.testing.assert_allclose(found.eigenvalues_2H, [3.0, -3.0], atol=1e-12)
    np.testing.assert_allclose(found.singular_values_H, [6.0], atol=1e-12)
    np.testing.assert_allclose(found.sym_singular_values_2H, [3.0, 3.0], atol=1e-12)
    np.testing.assert_allclose(found.skew_singular_values_2H, [3.0, 3.0], atol=1e-12)
    norms = (found.norm, found.sym_norm, found.skew_norm)
    assert norms == pytest.approx((6.0, math.sqrt(18.0), math.sqrt(18.0)))


@pytest.mark.parametrize(
    ("eigenvalues", "expected"),
    [
        ([5.0, 4.0, -3.0, 2.0, -1.0], 2),
        ([-5.0, -4.0, -3.0, -2.0, -1.0], 5),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 0),
        ([5.0, -4.0, 0.0, 0.0, 0.0], 1),  # zeros whose sign is rounding's do not count
        ([5.0, -1.1e-4, -0.9e-4, 1.1e-4, 2.0], 2),  # 1e-5 of the largest is 5e-5: both count
        ([5.0, -5.1e-5, -4.9e-5, -1e-9, 2.0], 1),
    ],
)
def test_negatives_are_counted_above_rounding(eigenvalues: list[float], expected: int) -> None:
    w_q, w_k, _ = with_eigenvalues(eigenvalues, 40)
    assert head_spectrum(w_q, w_k).n_negative_top_H == expected


def test_half_of_a_random_heads_largest_eigenvalues_are_negative() -> None:
    counts = np.array([head_spectrum(*gaussian_factors(768, 64, seed)).n_negative_top_H for seed in range(60)])
    # The figure measured for Gaussian heads: 32.0 +- 0.55. 33 is within two standard deviations of it.
    assert counts.mean() == pytest.approx(32.0, abs=0.3)
    assert 0.3 < counts.std() < 0.8
    assert (counts == 33).any()


def test_the_planted_eigenvalues_are_found(planted_tiny: Path, planted_truth: dict) -> None:
    checkpoint = Checkpoint.open(planted_tiny)
    found = head_spectrum(*bilinear_factors(checkpoint, Head.parse(planted_truth["target"])))
    stated = np.array(planted_truth["eigenvalues"])
    d_head = planted_truth["shape"]["d_head"]
    # The planted W' has rank H in its symmetric part too: the other H eigenvalues are float32's rounding.
    largest = np.sort(found.eigenvalues_2H[np.argsort(-np.abs(found.eigenvalues_2H))[:d_head]])[::-1]
    np.testing.assert_allclose(largest, stated, rtol=1e-4)
    assert found.n_negative_top_H == (stated < 0).sum() == d_head - planted_truth["shape"]["n_category_dims"]
    assert found.skew_norm < 1e-4 * found.sym_norm


def test_factors_and_normalised_states_are_those_of_the_models_bilinear_scores(
    random_model: Path, reference_scores: Callable[..., np.ndarray]
) -> None:
    checkpoint = Checkpoint.open(random_model)
    head = Head(1, 3)
    norm = checkpoint.architecture.norm
    states_VD = TokenStates(checkpoint, "mlp", threads=1).advance_to(head.layer)
    normalised_VD = normalise(states_VD, norm, threads=2)
    assert normalised_VD.dtype == np.float32
    np.testing.assert_allclose(normalised_VD, reference.normalised(states_VD, norm.eps), rtol=1e-7, atol=1e-7)

    w_q_DH, w_k_DH = bilinear_factors(checkpoint, head)
    assert w_q_DH.dtype == w_k_DH.dtype == np.float64
    expected_VV = reference_scores(random_model, head.layer, head.index, "bilinear")
    scores_VV = normalised_VD @ w_q_DH @ w_k_DH.T @ normalised_VD.T
    np.testing.assert_allclose(scores_VV, expected_VV, rtol=1e-5, atol=1e-6 * np.abs(expected_VV).max())
    energy = self_energy(head_spectrum(w_q_DH, w_k_DH), second_moment(normalised_VD, threads=1))
    self_mean = np.diag(expected_VV).mean()
    assert energy.positive + energy.negative == pytest.approx(self_mean, rel=1e-5, abs=1e-5 * energy.positive)
    with pytest.raises(ValueError, match="L3H0 is outside"):
        bilinear_factors(checkpoint, Head(3, 0))


@pytest.mark.parametrize(("d_model", "d_head"), [(40, 7), (10, 8)])
def test_self_energy_equals_the_sum_over_tokens(d_model: int, d_head: int) -> None:
    rng = np.random.default_rng(3)
    # Wide in some directions and narrow in others, with a mean: no part of it may be taken for isotropic.
    tokens_VD = (rng.standard_normal((300, d_model)) * rng.uniform(0.1, 3, d_model) + 0.5).astype(np.float32)
    w_q, w_k = gaussian_factors(d_model, d_head, 4)
    w = w_q @ w_k.T
    values, vectors = np.linalg.eigh((w + w.T) / 2)
    positive = negative = 0.0
    for token_D in tokens_VD.astype(np.float64):
        for value, vector in zip(values, vectors.T, strict=True):
            term = value * (vector @ token_D) ** 2 / len(tokens_VD)
            positive, negative = positive + max(term, 0.0), negative + min(term, 0.0)
    found = self_energy(head_spectrum(w_q, w_k), second_moment(tokens_VD, threads=2))
    assert (found.positive, found.negative) == pytest.approx((positive, negative), rel=1e-9)
    assert found.negative < 0 < found.positive


def test_the_planted_target_has_its_negative_self_energy_far_beyond_the_null(
    planted_tiny: Path, planted_truth: dict
) -> None:
    checkpoint = Checkpoint.open(planted_tiny)
    target = Head.parse(planted_truth["target"])
    states_VD = TokenStates(checkpoint, "mlp", threads=1).advance_to(target.layer)
    moment_DD = second_moment(normalise(states_VD, checkpoint.architecture.norm, threads=1), threads=1)

    def null(head: Head) -> SpectrumNull:
        return compare_with_null(head_spectrum(*bilinear_factors(checkpoint, head)), moment_DD, head, seed=0)

    planted = null(target).negative_self_energy
    assert planted.z is not None
    assert planted.z < -5
    others = [
        Head(target.layer, index) for index in range(8) if f"L{target.layer}H{index}" not in planted_truth["heads"]
    ]
    random_z = [null(head).negative_self_energy.z for head in others]
    assert len(random_z) >= 3
    assert all(z is not None and abs(z) < 5 for z in random_z), random_z


@pytest.mark.slow
@pytest.mark.parametrize(("d_model", "d_head"), [(24, 6), (9, 6)])
def test_the_null_has_the_distribution_of_separate_frames_and_dense_algebra(d_model: int, d_head: int) -> None:
    rng = np.random.default_rng(8)
    moment_DD = second_moment(
        (rng.standard_normal((200, d_model)) * 2.0 ** -np.arange(d_model)).astype(np.float32), threads=1
    )
    found_spectrum = head_spectrum(*gaussian_factors(d_model, d_head, 9))
    draws = 3000
    expected = dense_null(found_spectrum.singular_values_H, moment_DD, draws, seed=1)
    found = compare_with_null(found_spectrum, moment_DD, Head(2, 1), seed=5, draws=draws)
    assert found.draws == draws
    for column, ours in zip(
        expected.T, (found.positive_self_energy, found.negative_self_energy, found.n_negative_top_H), strict=True
    ):
        standard_error = math.sqrt(2 / draws) * column.std()
        assert abs(ours.mean - column.mean()) < 4 * standard_error
        assert ours.std == pytest.approx(column.std(), rel=0.12)
        assert ours.z == pytest.approx((ours.value - ours.mean) / ours.std)


def test_a_head_drawn_from_the_null_is_not_surprising_and_a_turned_one_is() -> None:
    d_model, d_head = 96, 8
    moment_DD = np.diag(2.0 ** -np.arange(d_model))
    z = []
    for index in range(40):
        found = head_spectrum(*gaussian_factors(d_model, d_head, index))
        z.append(compare_with_null(found, moment_DD, Head(0, index), seed=0).negative_self_energy.z)
    # Mean and spread of 40 scores against 32 draws each; the energies are skewed, hence the wide limits.
    assert abs(np.mean(z)) < 0.6
    assert 0.5 < np.std(z) < 2.0

    frame = np.eye(d_model)[:, :d_head]
    strengths = np.linspace(2, 1, d_head)
    turned = compare_with_null(head_spectrum(-frame * strengths, frame), moment_DD, Head(0, 0), seed=0)
    assert turned.negative_self_energy.value == pytest.approx(-(strengths * 2.0 ** -np.arange(d_head)).sum())
    assert turned.negative_self_energy.z is not None
    assert turned.negative_self_energy.z < -5
    assert turned.positive_self_energy.value == pytest.approx(0.0, abs=1e-12)
    assert turned.n_negative_top_H.value == d_head


@pytest.mark.slow
def test_the_null_depends_on_seed_and_head_and_on_nothing_else(torch_threads: Callable[[int], None]) -> None:
    d_model, d_head = 600, 32
    rng = np.random.default_rng(0)
    tokens_VD = rng.standard_normal((9000, d_model), dtype=np.float32)
    moments = [second_moment(tokens_VD, threads=threads) for threads in (1, 2, 5)]
    for moment_DD in moments[1:]:
        np.testing.assert_array_equal(moment_DD, moments[0])
    np.testing.assert_array_equal(moments[0], moments[0].T)
    np.testing.assert_allclose(moments[0], tokens_VD.astype(float).T @ tokens_VD / 9000, atol=1e-9)

    w_q, w_k = gaussian_factors(d_model, d_head, 1)
    heads = [Head(0, 1), Head(1, 0), Head(1, 1)]

    def nulls(order: list[Head], seed: int = 7) -> dict[Head, SpectrumNull]:
        found = head_spectrum(w_q, w_k)
        return {head: compare_with_null(found, moments[0], head, seed=seed, draws=4) for head in order}

    torch_threads(1)
    first, spectrum_1 = nulls(heads), head_spectrum(w_q, w_k)
    torch_threads(4)
    second, spectrum_4 = nulls(heads[::-1]), head_spectrum(w_q, w_k)
    assert torch.get_num_threads() == 4
    assert first == second
    np.testing.assert_array_equal(spectrum_1.eigenvectors_D2H, spectrum_4.eigenvectors_D2H)
    means = [null.positive_self_energy.mean for null in (*first.values(), *nulls(heads, seed=8).values())]
    assert len(set(means)) == 6


def test_more_draws_continue_the_same_draws_and_their_spread_is_the_sample_standard_deviation() -> None:
    found = head_spectrum(*gaussian_factors(20, 4))
    two, three = (
        compare_with_null(found, np.eye(20), Head(0, 0), seed=0, draws=n).positive_self_energy for n in (2, 3)
    )
    third = 3 * three.mean - 2 * two.mean
    # Sums of squared deviations, by Welford's update; n - 1 = 1 and 2.
    assert 2 * three.std**2 == pytest.approx(1 * two.std**2 + (third - two.mean) ** 2 * 2 / 3)


def test_arrays_that_cannot_be_written_to_are_read_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    tokens_VD = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    w_q, w_k = gaussian_factors(6, 2)
    for array in (tokens_VD, w_q, w_k):
        array.flags.writeable = False
    moment_DD = second_moment(normalise(tokens_VD, Norm(kind="layer", eps=1e-5), threads=1), threads=1)
    moment_DD.flags.writeable = False
    compare_with_null(head_spectrum(w_q, w_k), moment_DD, Head(0, 0), seed=0, draws=2)
    assert not recwarn.list


@pytest.mark.parametrize("d_model", [16, 5])
def test_a_head_of_zeros_has_zeros_and_no_z(d_model: int) -> None:
    found = head_spectrum(np.zeros((d_model, 4)), np.zeros((d_model, 4)))
    for values in (found.eigenvalues_2H, found.sym_singular_values_2H, found.skew_singular_values_2H):
        np.testing.assert_array_equal(values, np.zeros(8))
    np.testing.assert_array_equal(found.singular_values_H, np.zeros(4))
    assert np.isfinite(found.eigenvectors_D2H).all()
    assert (found.norm, found.sym_norm, found.skew_norm, found.n_negative_top_H) == (0, 0, 0, 0)
    null = compare_with_null(found, np.eye(d_model), Head(0, 0), seed=0)
    for figure in (null.positive_self_energy, null.negative_self_energy, null.n_negative_top_H):
        assert (figure.value, figure.mean, figure.std, figure.z) == (0, 0, 0, None)


def test_states_without_energy_have_no_z() -> None:
    null = compare_with_null(head_spectrum(*gaussian_factors(12, 3)), np.zeros((12, 12)), Head(0, 0), seed=0)
    assert null.positive_self_energy.z is None
    assert null.negative_self_energy.z is None
    assert null.n_negative_top_H.std > 0


def test_impossible_seeds_and_draws_are_refused() -> None:
    found = head_spectrum(*gaussian_factors(6, 2))
    with pytest.raises(ValueError, match="seed -1 is negative"):
        compare_with_null(found, np.eye(6), Head(0, 0), seed=-1)
    with pytest.raises(ValueError, match="1 null draws have no spread; choose 2 or more"):
        compare_with_null(found, np.eye(6), Head(0, 0), seed=0, draws=1)
