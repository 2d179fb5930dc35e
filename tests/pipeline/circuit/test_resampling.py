"""Resampled means against NumPy's own draws, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from qkatlas.pipeline.circuit.resampling import resampled_means


# Among these, odd sizes leave a word for the next mean, and large ones, no powers of two, pass over some words.
@pytest.mark.parametrize(
    ("size", "draws"), [(1, 3), (2, 9), (3, 200), (7, 500), (1000, 50), (50257, 40), (3_000_001, 3)]
)
def test_means_have_the_bits_of_numpys_draws(size: int, draws: int) -> None:
    values_N = np.random.default_rng(size).standard_normal(size) * 10.0
    rng = np.random.default_rng(np.random.SeedSequence([4, size]))
    expected = np.array([values_N[rng.integers(0, size, size)].mean() for _ in range(draws)])
    found = resampled_means(values_N, np.random.SeedSequence([4, size]), draws)
    np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64))


def test_the_largest_size_passes_over_words() -> None:
    """What the test above rests on: a size where NumPy needs more words than it draws places."""
    size = 3_000_001
    rng, words = np.random.default_rng(1), np.random.default_rng(1)
    rng.integers(0, size, size)
    words.integers(0, 2**32, size)
    assert rng.bit_generator.state != words.bit_generator.state


def test_values_need_not_lie_together() -> None:
    values = np.random.default_rng(2).standard_normal((500, 2))
    strided, whole = (resampled_means(of, np.random.SeedSequence(3), 5) for of in (values[:, 0], values[:, 0].copy()))
    np.testing.assert_array_equal(strided, whole)
