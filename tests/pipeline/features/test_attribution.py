"""Whose a feature is: owners by hand, shares of covariance against NumPy, and what leaves both as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qkatlas.pipeline.features.attribution import entropy, explained, owners
from qkatlas.pipeline.features.firings import firings

N, H, P, B = 5, 6, 300, 9


def rotations(seed: int) -> np.ndarray:
    """A rotation inside each head, one block of [X, X] each."""
    rng = np.random.default_rng(seed)
    whole = np.zeros((N * H, N * H))
    for head in range(N):
        own = slice(head * H, (head + 1) * H)
        whole[own, own] = np.linalg.qr(rng.standard_normal((H, H)))[0]
    return whole


def test_a_feature_of_one_head_is_one_hot() -> None:
    rows_FX = np.zeros((N, N * H))
    for head in range(N):
        rows_FX[head, head * H : (head + 1) * H] = np.random.default_rng(head).standard_normal(H)
    found = owners(rows_FX, N)
    np.testing.assert_array_equal(found.share_BN, np.eye(N))
    np.testing.assert_array_equal(found.entropy_B, np.zeros(N))


def test_norms_3_and_4_give_3_and_4_sevenths() -> None:
    row_X = np.zeros(N * H)
    row_X[H : 2 * H] = 3 / np.sqrt(H)
    row_X[3 * H] = -4
    found = owners(row_X[None], N)
    np.testing.assert_allclose(found.share_BN, [[0, 3 / 7, 0, 4 / 7, 0]], atol=1e-15)
    assert found.norm_B[0] == pytest.approx(5)
    assert found.entropy_B[0] == pytest.approx(-3 / 7 * np.log(3 / 7) - 4 / 7 * np.log(4 / 7))


def test_a_decoder_of_zeros_is_no_heads() -> None:
    found = owners(np.zeros((1, N * H)), N)
    assert np.isnan(found.share_BN).all()
    assert np.isnan(found.entropy_B).all()
    assert found.norm_B[0] == 0


def test_entropy_of_nothing_is_unknown_and_of_all_alike_is_ln_n() -> None:
    np.testing.assert_allclose(entropy(np.full((1, 4), 0.25)), np.log(4))


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((P, N * H)) @ rng.standard_normal((N * H, N * H)) + 3
    scale, read = rng.uniform(0.5, 2, P), rng.standard_normal((N * H, B))
    return (torch.from_numpy(z), torch.from_numpy(scale), torch.from_numpy(read),
            torch.from_numpy(rng.random((P, B)) < 0.2))  # fmt: skip


def test_shares_of_covariance_are_those_of_numpy(data: tuple[torch.Tensor, ...]) -> None:
    z, scale, read, fires = data
    fires[:, 0] = False
    fires[3, 0] = True  # once
    found = explained(z, scale, read, fires, N)
    parts = np.einsum("pnh,nhb->pnb", (z * scale[:, None]).numpy().reshape(P, N, H), read.numpy().reshape(N, H, B))
    for feature in range(B):
        for values, chosen in ((found.fve_BN, slice(None)), (found.fve_active_BN, fires[:, feature].numpy())):
            some = parts[chosen, :, feature]
            if len(some) < 2:
                assert np.isnan(values[feature]).all()
                continue
            covariance = np.cov(np.column_stack([some.sum(1), some]).T)
            np.testing.assert_allclose(values[feature], covariance[0, 1:] / covariance[0, 0], atol=1e-10)
            assert values[feature].sum() == pytest.approx(1, abs=1e-12)
        whole = parts[:, :, feature].sum(1)
        r2 = [np.corrcoef(parts[:, head, feature], whole)[0, 1] ** 2 for head in range(N)]
        np.testing.assert_allclose(found.r2_BN[feature], r2, atol=1e-10)


def test_a_share_of_a_covariance_may_be_negative_or_over_1_and_a_squared_correlation_neither() -> None:
    x = np.random.default_rng(4).standard_normal(P)
    z = np.zeros((P, N * H))
    z[:, 0], z[:, H] = x, -0.4 * x
    ones = torch.ones(P, dtype=torch.float64)
    found = explained(torch.from_numpy(z), ones, torch.ones((N * H, 1), dtype=torch.float64), ones[:, None] > 0, N)
    np.testing.assert_allclose(found.fve_BN, [[1 / 0.6, -0.4 / 0.6, 0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(found.fve_active_BN, found.fve_BN)
    np.testing.assert_allclose(found.r2_BN, [[1, 1, 0, 0, 0]], atol=1e-12)


def test_a_pre_activation_that_hardly_varies_beside_its_mean_keeps_its_digits() -> None:
    z = np.full((P, N * H), 1000.0)
    z[:, 0] += 1e-3 * np.random.default_rng(5).standard_normal(P)
    ones = torch.ones(P, dtype=torch.float64)
    found = explained(torch.from_numpy(z), ones, torch.ones((N * H, 1), dtype=torch.float64), ones[:, None] > 0, N)
    np.testing.assert_allclose(found.fve_BN, [[1, 0, 0, 0, 0]], atol=1e-6)


def test_a_rotation_inside_each_head_changes_nothing(data: tuple[torch.Tensor, ...]) -> None:
    z, scale, read, fires = data
    turn = torch.from_numpy(rotations(1))
    before, after = explained(z, scale, read, fires, N), explained(z @ turn, scale, turn.T @ read, fires, N)
    for name in ("fve_BN", "fve_active_BN", "r2_BN"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-10)
    rows = read.numpy().T
    np.testing.assert_allclose(owners(rows @ rotations(1), N).share_BN, owners(rows, N).share_BN, atol=1e-12)
    across = np.linalg.qr(np.random.default_rng(2).standard_normal((N * H, N * H)))[0]  # and one across heads does
    assert np.abs(owners(rows @ across, N).share_BN - owners(rows, N).share_BN).max() > 0.05


def test_a_pre_activation_that_does_not_vary_has_no_shares(data: tuple[torch.Tensor, ...]) -> None:
    z, scale, read, fires = data
    found = explained(z, scale, torch.zeros_like(read), fires, N)
    assert np.isnan(found.fve_BN).all()
    assert np.isnan(found.r2_BN).all()


def test_the_strongest_firings_are_in_order_the_earlier_of_equals() -> None:
    active = torch.zeros((8, 3), dtype=torch.float64)
    active[:, 0] = torch.tensor([0, 2, 5, 2, 0, 5, 1, 0])
    active[4, 1] = 3
    found = firings(active, 4)
    np.testing.assert_array_equal(found.position_BK[0], [2, 5, 1, 3])
    np.testing.assert_array_equal(found.activation_BK[0], [5, 5, 2, 2])
    assert found.position_BK[1, 0] == 4
    np.testing.assert_array_equal(found.activation_BK[1:], [[3, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(found.density_B, [5 / 8, 1 / 8, 0])
    np.testing.assert_array_equal(found.mean_B[:2], [3, 3])
    assert np.isnan(found.mean_B[2])
