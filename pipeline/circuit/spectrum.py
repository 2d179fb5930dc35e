"""Spectrum of a head's bilinear form, what it says of tokens by themselves, and what chance would say.

W' = W'_Q W'_K^T has rank H, its symmetric part W_sym = (W' + W'^T)/2 rank 2H: generically H positive and H negative
eigenvalues, whatever the head does. How many are negative therefore proves nothing; how much of the tokens lies on
them does. Everything comes from a 2H x 2H problem in an orthonormal basis of the columns of [W'_Q W'_K].

The algebra is torch's on one thread in float64: NumPy's own, at large D, gives other last bits on more threads.

Shapes: V vocabulary, D model, H head dimension, E = 2H eigenvalues, F = min(D, 2H).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.threads import single_threaded_torch

NULL_DRAWS = 32
"""Random heads that a head is compared with."""

ZERO_SHARE = 1e-5
"""An eigenvalue of at most this share of the largest by magnitude counts as zero: its sign is rounding's."""

_BLOCK_ROWS = 1024  # rows of one product of the second moment; fixed, because it decides the last bits
_STRANDS = 8  # partial sums of the second moment; fixed for the same reason


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Eigenvalues and singular values of one head's W' = W'_Q W'_K^T and of its symmetric and skew parts.

    Attributes:
        eigenvalues_2H: float64 [2H] of W_sym, descending; exact zeros fill up where D < 2H.
        eigenvectors_D2H: float64 [D, 2H], their orthonormal vectors as columns (zero columns beside the filling).
        singular_values_H: float64 [H] of W', descending.
        sym_singular_values_2H: float64 [2H] of W_sym, descending.
        skew_singular_values_2H: float64 [2H] of W_skew = (W' - W'^T)/2, descending; they come in pairs.
        norm: Frobenius norm of W'.
        sym_norm: Frobenius norm of W_sym.
        skew_norm: Frobenius norm of W_skew.
        n_negative_top_H: negative ones among the H eigenvalues largest by magnitude that exceed `ZERO_SHARE`.
    """

    eigenvalues_2H: Float64[np.ndarray, " E"]
    eigenvectors_D2H: Float64[np.ndarray, "D E"]
    singular_values_H: Float64[np.ndarray, " H"]
    sym_singular_values_2H: Float64[np.ndarray, " E"]
    skew_singular_values_2H: Float64[np.ndarray, " E"]
    norm: float
    sym_norm: float
    skew_norm: float
    n_negative_top_H: int


@dataclass(frozen=True, kw_only=True)
class SelfEnergy:
    """Mean over the vocabulary of N_t W_sym N_t^T, the bilinear score of a token with itself, by eigenvalue sign.

    Attributes:
        positive: share of the positive eigenvalues, at least 0.
        negative: share of the negative eigenvalues, at most 0.
    """

    positive: float
    negative: float


@dataclass(frozen=True, kw_only=True)
class AgainstNull:
    """One figure of a head beside the same figure of random heads.

    Attributes:
        value: the head's own.
        mean: mean over the draws.
        std: sample standard deviation over the draws (n - 1).
        z: (value - mean)/std; None where the draws do not differ.
    """

    value: float
    mean: float
    std: float
    z: float | None


@dataclass(frozen=True, kw_only=True)
class SpectrumNull:
    """A head's self energy and its count of negative eigenvalues against random heads of the same singular values.

    Attributes:
        positive_self_energy: positive part of the self energy.
        negative_self_energy: negative part; z < 0 means that tokens lie more on negative eigenvalues than by chance.
        n_negative_top_H: negatives among the H largest by magnitude.
        draws: number of random heads.
    """

    positive_self_energy: AgainstNull
    negative_self_energy: AgainstNull
    n_negative_top_H: AgainstNull
    draws: int


def head_spectrum(w_q_DH: Float64[np.ndarray, "D H"], w_k_DH: Float64[np.ndarray, "D H"]) -> Spectrum:
    """Exact spectrum of a head from its folded factors.

    With [W'_Q W'_K] = B [R_Q R_K], B orthonormal, W' = B (R_Q R_K^T) B^T: the 2H x 2H matrix R_Q R_K^T has the
    eigenvalues of the symmetric part and all singular values of W'; nothing D x D is decomposed.

    Args:
        w_q_DH: float64 [D, H], W'_Q = diag(LayerNorm weight) W_Q.
        w_k_DH: float64 [D, H], W'_K likewise.

    Returns:
        The spectrum; a head of zeros has zeros throughout.
    """
    assert w_q_DH.shape == w_k_DH.shape, (w_q_DH.shape, w_k_DH.shape)
    assert np.isfinite(w_q_DH).all(), "a query weight is not finite"
    assert np.isfinite(w_k_DH).all(), "a key weight is not finite"
    d_head = w_q_DH.shape[1]
    with single_threaded_torch():
        basis_DF, coordinates_FE = torch.linalg.qr(float64(np.concatenate([w_q_DH, w_k_DH], axis=1)))
        core_FF = coordinates_FE[:, :d_head] @ coordinates_FE[:, d_head:].T
        sym_FF, skew_FF = (core_FF + core_FF.T) / 2, (core_FF - core_FF.T) / 2
        eigenvalues_F, eigenvectors_FF = torch.linalg.eigh(sym_FF)
        vectors_DF = (basis_DF @ eigenvectors_FF).numpy()
        singular_F, skew_F = (torch.linalg.svdvals(matrix_FF).numpy() for matrix_FF in (core_FF, skew_FF))
    eigenvalues_2H = filled(eigenvalues_F.numpy(), 2 * d_head)
    descending_2H = np.argsort(-eigenvalues_2H, kind="stable")
    return Spectrum(
        eigenvalues_2H=eigenvalues_2H[descending_2H],
        eigenvectors_D2H=filled(vectors_DF, 2 * d_head)[:, descending_2H],
        singular_values_H=filled(singular_F[:d_head], d_head),
        sym_singular_values_2H=np.sort(np.abs(eigenvalues_2H))[::-1].copy(),
        skew_singular_values_2H=filled(skew_F, 2 * d_head),
        norm=_norm(core_FF),
        sym_norm=_norm(sym_FF),
        skew_norm=_norm(skew_FF),
        n_negative_top_H=_negatives_among_largest(eigenvalues_2H[descending_2H], d_head),
    )


def second_moment(normalised_VD: Float32[np.ndarray, "V D"], *, threads: int) -> Float64[np.ndarray, "D D"]:
    """Second moment C = N^T N / V of a layer's normalised states, from which the self energy of every head follows.

    Args:
        normalised_VD: float32 [V, D], N_l.
        threads: threads to use; the result does not depend on it.

    Returns:
        float64 [D, D], symmetric.
    """
    total_DD = cross_moment(normalised_VD, normalised_VD, threads=threads)
    return np.asarray((total_DD + total_DD.T) / 2)


def cross_moment(
    left_VD: Float32[np.ndarray, "V D"], right_VD: Float32[np.ndarray, "V D"], *, threads: int
) -> Float64[np.ndarray, "D D"]:
    """Mean over tokens of the products of two of their vectors, L^T R / V.

    Args:
        left_VD: float32 [V, D].
        right_VD: float32 [V, D].
        threads: threads to use; the result does not depend on it.

    Returns:
        float64 [D, D], a row a dimension of the left ones.
    """
    n_rows, d_model = left_VD.shape

    def partial_sum(strand: int) -> torch.Tensor:
        sum_DD = torch.zeros((d_model, d_model), dtype=torch.float64)
        for start in range(strand * _BLOCK_ROWS, n_rows, _STRANDS * _BLOCK_ROWS):
            block_RD = float64(left_VD[start : start + _BLOCK_ROWS])
            other_RD = block_RD if right_VD is left_VD else float64(right_VD[start : start + _BLOCK_ROWS])
            sum_DD.addmm_(block_RD.T, other_RD)
        return sum_DD

    # Torch keeps the number of its own threads per calling thread, so each pool thread sets it for itself.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        sums = list(pool.map(partial_sum, range(_STRANDS)))
    return np.asarray(np.sum([sum_DD.numpy() for sum_DD in sums], axis=0) / n_rows)


def self_energy(spectrum: Spectrum, second_moment_DD: Float64[np.ndarray, "D D"]) -> SelfEnergy:
    """Positive and negative part of sum_i lambda_i (p_i . N_t)^2, as means over the vocabulary.

    The mean of (p_i . N_t)^2 over tokens is p_i^T C p_i, so no token is visited.

    Args:
        spectrum: the head's.
        second_moment_DD: float64 [D, D], `second_moment` of the head's layer.

    Returns:
        The two parts, in units of the bilinear score; their sum is the mean bilinear score of a token with itself.
    """
    with single_threaded_torch():
        vectors_DE = float64(spectrum.eigenvectors_D2H)
        energy_E = (vectors_DE * (float64(second_moment_DD) @ vectors_DE)).sum(0).numpy()
    return _parts(spectrum.eigenvalues_2H, energy_E)


def compare_with_null(
    spectrum: Spectrum,
    second_moment_DD: Float64[np.ndarray, "D D"],
    head: Head,
    *,
    seed: int,
    draws: int = NULL_DRAWS,
) -> SpectrumNull:
    """Compare a head with random heads W' = U diag(s) V^T: its own singular values s on independent uniform frames.

    U and V are orthonormal [D, H] frames from the Haar measure: the Q of Gaussian matrices' QR, with R's diagonal made
    positive. For Gaussians [G_U G_V] = B [R_U R_V], the basis B is itself uniform and independent of R; its first H
    columns are U, and V is B times the Q of R_V. One decomposition of [D, 2H] so gives both frames and their basis.

    Args:
        spectrum: the head's.
        second_moment_DD: float64 [D, D], `second_moment` of the head's layer.
        head: the head; its random heads depend on it and the seed alone, not on which heads are asked for.
        seed: seed of the run, at least 0.
        draws: number of random heads, at least 2.

    Returns:
        The head's figures with mean, standard deviation and z of the draws.

    Raises:
        ValueError: if the seed is negative or there are fewer than two draws.

    Source:
        F. Mezzadri, "How to generate random matrices from the classical compact groups" (2007), section 5.
    """
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; choose 0 or more")
    if draws < 2:
        raise ValueError(f"{draws} null draws have no spread; choose 2 or more")
    d_model, d_head = len(second_moment_DD), len(spectrum.singular_values_H)
    assert d_head <= d_model, (d_head, d_model)
    rng = streams.NULL_HEADS.generator(seed, head.layer, head.index)
    figures = np.empty((draws, 3))
    with single_threaded_torch():
        moment_DD = float64(second_moment_DD)
        strengths_H = float64(spectrum.singular_values_H)
        for draw in range(draws):
            basis_DF, coordinates_FE = uniform_qr(float64(rng.standard_normal((d_model, 2 * d_head))))
            keys_FH, _ = uniform_qr(coordinates_FE[:, d_head:])
            core_FF = torch.zeros((len(keys_FH), len(keys_FH)), dtype=torch.float64)
            core_FF[:d_head] = strengths_H[:, None] * keys_FH.T
            eigenvalues_F, vectors_FF = torch.linalg.eigh((core_FF + core_FF.T) / 2)
            moment_FF = basis_DF.T @ (moment_DD @ basis_DF)
            energy_F = (vectors_FF * (moment_FF @ vectors_FF)).sum(0)
            parts = _parts(eigenvalues_F.numpy(), energy_F.numpy())
            n_negative = _negatives_among_largest(eigenvalues_F.numpy(), d_head)
            figures[draw] = parts.positive, parts.negative, n_negative
    own = self_energy(spectrum, second_moment_DD)
    return SpectrumNull(
        positive_self_energy=against(own.positive, figures[:, 0]),
        negative_self_energy=against(own.negative, figures[:, 1]),
        n_negative_top_H=against(float(spectrum.n_negative_top_H), figures[:, 2]),
        draws=draws,
    )


def float64(values: np.ndarray) -> torch.Tensor:
    """Copy to torch in float64, because its memory is aligned alike for every caller, and with it the last bits."""
    return torch.tensor(values, dtype=torch.float64)


def filled(values: np.ndarray, width: int) -> np.ndarray:
    """Widen the last axis to `width` with zeros."""
    return np.concatenate([values, np.zeros((*values.shape[:-1], width - values.shape[-1]))], axis=-1)


def _norm(matrix: torch.Tensor) -> float:
    return float(np.sqrt(np.square(matrix.numpy()).sum()))


def uniform_qr(gauss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """QR with R's diagonal positive: of a Gaussian matrix, Q is then uniform over orthonormal frames."""
    q, r = torch.linalg.qr(gauss)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(r.dtype)
    return q * signs, signs[:, None] * r


def _negatives_among_largest(eigenvalues: np.ndarray, n: int) -> int:
    """Negative ones among the n eigenvalues largest by magnitude, zeros left out."""
    largest = eigenvalues[np.argsort(-np.abs(eigenvalues), kind="stable")[:n]]
    return int((largest < -ZERO_SHARE * np.abs(largest[0])).sum())


def _parts(eigenvalues: np.ndarray, energy: np.ndarray) -> SelfEnergy:
    weighted = eigenvalues * energy
    positive = eigenvalues > 0
    return SelfEnergy(positive=float(weighted[positive].sum()), negative=float(weighted[~positive].sum()))


def against(value: float, drawn: np.ndarray) -> AgainstNull:
    """One figure of a head beside those of random ones."""
    mean, std = float(drawn.mean()), float(drawn.std(ddof=1))
    return AgainstNull(value=value, mean=mean, std=std, z=(value - mean) / std if std > 0 else None)
