"""Spectrum of a head's OV form, its copying score, and what random heads of the same singular values have.

On the vocabulary the form is N A B^T U^T: N normalised states, U centred rows of the unembedding, A and B the head's
factors (`ov.OvWeights.form`). Its eigenvalues but zeros are those of the H x H matrix B^T G A, where G = U^T N / V, so
nothing V x V is made. Their sum, the trace, is the mean over tokens of what attending to a token adds to its own logit;
biases are no part of it. Eigenvalues are complex; a head that copies has them on the right of zero.

Shapes: V vocabulary, D model, H head dimension, F = min(D, 2H).

Source:
    N. Elhage and others, "A Mathematical Framework for Transformer Circuits" (2021), on eigenvalues of OV circuits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex128, Float64

from qkatlas.pipeline.circuit.spectrum import NULL_DRAWS, AgainstNull, against, filled, float64, uniform_qr
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.threads import single_threaded_torch


@dataclass(frozen=True, kw_only=True)
class OvSpectrum:
    """Eigenvalues of a head's OV form on the vocabulary, and what they come to beside random heads.

    Attributes:
        eigenvalues_H: complex [H], by descending real part.
        singular_values_H: float64 [H] of A B^T, descending.
        copying_score: sum of the eigenvalues' real parts over the sum of their magnitudes, -1 to 1.
        self_energy: sum of the real parts: mean over tokens of OV[t, t] without biases.
    """

    eigenvalues_H: Complex128[np.ndarray, " H"]
    singular_values_H: Float64[np.ndarray, " H"]
    copying_score: AgainstNull
    self_energy: AgainstNull


def ov_spectrum(
    form: tuple[Float64[np.ndarray, "D H"], Float64[np.ndarray, "D H"]],
    cross_moment_DD: Float64[np.ndarray, "D D"],
    head: Head,
    *,
    seed: int,
    draws: int = NULL_DRAWS,
) -> OvSpectrum:
    """Spectrum of one head beside random heads P diag(s) R^T: its singular values s on uniform frames P and R.

    Args:
        form: A and B.
        cross_moment_DD: float64 [D, D], G: mean over tokens of unembedding row times normalised state.
        head: the head; its random heads depend on it and the seed alone.
        seed: of the run.
        draws: random heads, at least 2.
    """
    a_DH, b_DH = form
    d_model, d_head = a_DH.shape
    rng = streams.NULL_OV_HEADS.generator(seed, head.layer, head.index)
    drawn = np.empty((draws, 2))
    with single_threaded_torch():
        moment_DD = float64(cross_moment_DD)
        a, b = float64(a_DH), float64(b_DH)
        eigenvalues_H = torch.linalg.eigvals(b.T @ (moment_DD @ a)).numpy()
        strengths_H = torch.linalg.svdvals(torch.linalg.qr(a)[1] @ torch.linalg.qr(b)[1].T)
        for draw in range(draws):
            # Two independent uniform frames and a basis of both, as `spectrum.compare_with_null` draws them.
            basis_DF, coordinates_FE = uniform_qr(float64(rng.standard_normal((d_model, 2 * d_head))))
            right_FH, _ = uniform_qr(coordinates_FE[:, d_head:])
            moment_FH = basis_DF.T @ (moment_DD @ basis_DF[:, :d_head])
            drawn[draw] = _figures(torch.linalg.eigvals(strengths_H[:, None] * (right_FH.T @ moment_FH)).numpy())
    order_H = np.lexsort((-eigenvalues_H.imag, -eigenvalues_H.real))
    copying, energy = _figures(eigenvalues_H)
    return OvSpectrum(
        eigenvalues_H=eigenvalues_H[order_H],
        singular_values_H=filled(strengths_H.numpy()[:d_head], d_head),
        copying_score=against(copying, drawn[:, 0]),
        self_energy=against(energy, drawn[:, 1]),
    )


def _figures(eigenvalues_H: Complex128[np.ndarray, " H"]) -> tuple[float, float]:
    """Copying score and self energy; a head of zeros copies nothing."""
    energy, magnitude = float(eigenvalues_H.real.sum()), float(np.abs(eigenvalues_H).sum())
    return (energy / magnitude if magnitude > 0 else 0.0), energy
