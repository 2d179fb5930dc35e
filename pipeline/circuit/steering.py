"""Steering a head: its bilinear form with scaled eigenvalues or singular values, or moved along a gradient.

Every steered form has low rank, so it is again a pair of projections, to queries and to keys, of the normalised
states: what scores it is the one engine, and nothing D x D x V or V x V is made. With W' = W'_Q W'_K^T and its
symmetric part P L P^T,

    eigenvalues scaled:      W'_Q W'_K^T + P dL P^T          queries [N W'_Q, N P sqrt|dL|], keys [N W'_K, +-...]
    ... without the skew part:             P (L + dL) P^T    queries [N P sqrt|L + dL|],     keys [+-...]
    singular values scaled:  W'_Q W'_K^T + U dS V^T          queries [N W'_Q, N U sqrt|dS|], keys [N W'_K, +-...]
    moved by a gradient:     (W'_Q + G_Q) (W'_K + G_K)^T

The biases of attention scores are no part of the form: they stay as they are in every one of these. A point that
changes nothing has the head's own projections, so its scores are the unsteered ones bit for bit.

Shapes: V vocabulary, D model, H head dimension, E = 2H eigenvalues, R rank of a change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.kinds import EIGENVALUES, MOVES, SKEW
from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.circuit.spectrum import ZERO_SHARE, Spectrum, head_spectrum
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.threads import single_threaded_torch

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Steered:
    """A steered head.

    Attributes:
        weights: its projections of the normalised states, of any width.
        dose: sum of the singular values of the change of W'; for eigenvalues, the sum of their absolute changes. What
            a form without the skew part, or rebuilt from the top eigenvalues, leaves out is not counted.
    """

    weights: HeadWeights
    dose: float


class SteerableHead:
    """A head with all that its steered forms are made from.

    Args:
        head: which head; draws depend on it and the seed alone.
        weights: the head's own, which fix the form of the score.
        moment_DD: float64 [D, D], second moment of the layer's normalised states; the gradient needs it.
        skew: `keep` W_skew beside changed eigenvalues, or `drop` it.
        eigenvalues: `all` 2H of W_sym, or the `top` H by magnitude. Those left out stay as they are under `keep`, and
            are dropped under `drop`, where the form is rebuilt from the chosen ones.
        move: which weights follow the gradient: `queries`, `keys` or `both`.
        seed: of the controls' draws.
    """

    def __init__(
        self,
        head: Head,
        weights: HeadWeights,
        moment_DD: Float64Array,
        *,
        skew: str = "keep",
        eigenvalues: str = "all",
        move: str = "keys",
        seed: int = 0,
    ) -> None:
        assert skew in SKEW, skew
        assert eigenvalues in EIGENVALUES, eigenvalues
        assert move in MOVES, move
        self._head, self._seed = head, seed
        self._own = weights
        self._folded = folded(weights)
        self._w_q_DH, self._w_k_DH = np.split(self._folded.w_qk_D2H, 2, axis=1)
        self._b_q_H, self._b_k_H = np.split(self._folded.b_qk_2H, 2)
        self._moment_DD = moment_DD
        self._keeps_skew = skew == "keep"
        self._move = move
        self._spectrum: Spectrum = head_spectrum(self._w_q_DH, self._w_k_DH)
        magnitude_E = np.abs(self._spectrum.eigenvalues_2H)
        chosen_E = magnitude_E > ZERO_SHARE * magnitude_E.max()
        if eigenvalues == "top":
            chosen_E[np.argsort(-magnitude_E, kind="stable")[self._w_q_DH.shape[1] :]] = False
        self._chosen_E = chosen_E

    def at(self, point: Point) -> Steered:
        """The head steered to one point of a grid."""
        if point.method == "unsteered":
            return Steered(weights=self._own, dose=0.0)
        if point.method == "singular":
            assert point.rank is not None, point
            assert point.scale is not None, point
            return self._singular(point.rank, point.scale)
        if point.method == "gradient":
            assert point.step is not None, point
            return self._gradient(point.step)
        assert point.alpha is not None, point
        if point.method == "control":
            assert point.draw is not None, point
            return self._with_eigenvalues(self._random_change(point.alpha, point.draw))
        return self._with_eigenvalues(self._negative_change(point.alpha))

    def symmetric(self) -> HeadWeights:
        """W_sym alone, with all its eigenvalues and the biases."""
        vectors_DE = self._spectrum.eigenvectors_D2H
        return self._rebuilt(vectors_DE, self._spectrum.eigenvalues_2H, vectors_DE)

    def skew_symmetric(self) -> HeadWeights:
        """W_skew = (W' - W'^T)/2 alone, without biases: a token's score with itself is zero."""
        half = np.sqrt(0.5)
        return self._projections(
            np.concatenate([self._w_q_DH, self._w_k_DH], axis=1) * half,
            np.concatenate([self._w_k_DH, -self._w_q_DH], axis=1) * half,
        )

    def _negative_change(self, alpha: float) -> Float64Array:
        """What scaling the chosen negative eigenvalues by alpha adds to each eigenvalue."""
        values_E = self._spectrum.eigenvalues_2H
        return np.where(self._chosen_E & (values_E < 0), (alpha - 1.0) * values_E, 0.0)

    def _random_change(self, alpha: float, draw: int) -> Float64Array:
        """The same dose on random eigenvalues, taken until together they are as large as the chosen negative ones.

        Each changes in proportion to itself, up or down in turn, so that changes of eigenvalues of like size nearly
        add up to nothing: as much damage, and no direction. One that dwarfs the others cannot be balanced. A draw's
        choice is the same at every alpha.
        """
        values_E = self._spectrum.eigenvalues_2H
        target = float(np.abs(values_E[self._chosen_E & (values_E < 0)]).sum())
        rng = streams.CONTROLS.generator(self._seed, self._head.layer, self._head.index, draw)
        first_sign = float(rng.choice([-1.0, 1.0]))
        change_E = np.zeros_like(values_E)
        taken = net = 0.0
        for index in rng.permutation(np.flatnonzero(self._chosen_E)):
            if taken >= target:
                break
            size = abs(float(values_E[index]))
            change_E[index] = size * (-np.sign(net) if net else first_sign)
            taken += size
            net += float(change_E[index])
        return change_E * ((alpha - 1.0) * target / taken) if taken else change_E

    def _with_eigenvalues(self, change_E: Float64Array) -> Steered:
        dose = float(np.abs(change_E).sum())
        if not self._keeps_skew:
            values_E = np.where(self._chosen_E, self._spectrum.eigenvalues_2H, 0.0)
            vectors_DE = self._spectrum.eigenvectors_D2H
            return Steered(weights=self._rebuilt(vectors_DE, values_E + change_E, vectors_DE), dose=dose)
        changed_E = change_E != 0
        vectors_DR = self._spectrum.eigenvectors_D2H[:, changed_E]
        return Steered(weights=self._with_term(vectors_DR, change_E[changed_E], vectors_DR), dose=dose)

    def _singular(self, rank: int, scale: float) -> Steered:
        d_head = self._w_q_DH.shape[1]
        assert 1 <= rank <= d_head, (rank, d_head)
        if scale == 1:
            return Steered(weights=self._own, dose=0.0)
        with single_threaded_torch():
            factors = torch.tensor(np.concatenate([self._w_q_DH, self._w_k_DH], axis=1))
            basis_DF, coordinates_FE = torch.linalg.qr(factors)
            left_FF, values_F, right_FF = torch.linalg.svd(coordinates_FE[:, :d_head] @ coordinates_FE[:, d_head:].T)
            left_DH, right_DH = ((basis_DF @ vectors_FF[:, :d_head]).numpy() for vectors_FF in (left_FF, right_FF.T))
        values_H = values_F[:d_head].numpy().copy()
        dose = float(abs(scale - 1.0) * values_H[:rank].sum())
        values_H[:rank] *= scale
        return Steered(weights=self._rebuilt(left_DH, values_H, right_DH), dose=dose)

    def _gradient(self, step: float) -> Steered:
        """One step along the gradient of the mean bilinear self score, tr(W'_Q^T C W'_K) with C = N^T N / V.

        With one side moved that mean is linear in the step; with both, the product of the two changes joins it.
        """
        if step == 0:
            return Steered(weights=self._own, dose=0.0)
        w_q_DH, w_k_DH = self._w_q_DH, self._w_k_DH
        with single_threaded_torch():  # NumPy's products may differ in the last bit with the number of threads
            moment_DD = torch.from_numpy(self._moment_DD)
            toward_q_DH, toward_k_DH = ((moment_DD @ torch.from_numpy(of_DH)).numpy() for of_DH in (w_k_DH, w_q_DH))
        if self._move != "keys":
            w_q_DH = w_q_DH + _step(self._w_q_DH, toward_q_DH, step)
        if self._move != "queries":
            w_k_DH = w_k_DH + _step(self._w_k_DH, toward_k_DH, step)
        # The change W'_Q2 W'_K2^T - W'_Q W'_K^T as one product of factors of width 2H.
        change = head_spectrum(
            np.concatenate([w_q_DH, self._w_q_DH], axis=1), np.concatenate([w_k_DH, -self._w_k_DH], axis=1)
        )
        weights = self._projections(w_q_DH, w_k_DH, self._b_q_H, self._b_k_H)
        return Steered(weights=weights, dose=float(change.singular_values_H.sum()))

    def _with_term(self, left_DR: Float64Array, change_R: Float64Array, right_DR: Float64Array) -> HeadWeights:
        """The head's form plus left diag(change) right^T; its own weights where nothing is added."""
        if not np.any(change_R):
            return self._own
        root_R = np.sqrt(np.abs(change_R))  # split between both sides, so that neither outweighs the other in float32
        none_R = np.zeros(len(root_R))
        return self._projections(
            np.concatenate([self._w_q_DH, left_DR * root_R], axis=1),
            np.concatenate([self._w_k_DH, right_DR * (np.sign(change_R) * root_R)], axis=1),
            np.concatenate([self._b_q_H, none_R]),
            np.concatenate([self._b_k_H, none_R]),
        )

    def _rebuilt(self, left_DE: Float64Array, values_E: Float64Array, right_DE: Float64Array) -> HeadWeights:
        """The form left diag(values) right^T in place of W', with the terms that the biases add to W''s scores.

        (N_t W'_Q + b_Q) . (N_u W'_K + b_K) = N_t W' N_u^T + (N_t W'_Q b_K + b_Q . b_K) + N_u W'_K b_Q: the second
        and third term are one column each, beside a column of ones.
        """
        kept_E = values_E != 0
        root_R = np.sqrt(np.abs(values_E[kept_E]))
        zero_D2 = np.zeros((len(left_DE), 2))
        query_D2, key_D2 = zero_D2.copy(), zero_D2.copy()
        query_D2[:, 0] = self._w_q_DH @ self._b_k_H
        key_D2[:, 1] = self._w_k_DH @ self._b_q_H
        none_R = np.zeros(len(root_R))
        return self._projections(
            np.concatenate([left_DE[:, kept_E] * root_R, query_D2], axis=1),
            np.concatenate([right_DE[:, kept_E] * (np.sign(values_E[kept_E]) * root_R), key_D2], axis=1),
            np.concatenate([none_R, [self._b_q_H @ self._b_k_H, 1.0]]),
            np.concatenate([none_R, [1.0, 0.0]]),
        )

    def _projections(
        self,
        w_q_DR: Float64Array,
        w_k_DR: Float64Array,
        b_q_R: Float64Array | None = None,
        b_k_R: Float64Array | None = None,
    ) -> HeadWeights:
        none_R = np.zeros(w_q_DR.shape[1])
        b_qk = np.concatenate([none_R if b_q_R is None else b_q_R, none_R if b_k_R is None else b_k_R])
        return replace(self._folded, w_qk_D2H=np.concatenate([w_q_DR, w_k_DR], axis=1), b_qk_2H=b_qk)


def folded(weights: HeadWeights) -> HeadWeights:
    """The same projections as functions of the normalised states: LayerNorm's weight and bias become theirs.

    Args:
        weights: of a head.

    Returns:
        Weights whose LayerNorm has weight 1 and bias 0.
    """
    return replace(
        weights,
        gain_D=np.ones_like(weights.gain_D),
        shift_D=np.zeros_like(weights.shift_D),
        w_qk_D2H=weights.gain_D[:, None] * weights.w_qk_D2H,
        b_qk_2H=weights.shift_D @ weights.w_qk_D2H + weights.b_qk_2H,
    )


def _step(weights_DH: Float64Array, gradient_DH: Float64Array, step: float) -> Float64Array:
    """A step along the gradient, `step` times as long as the weights; none where the gradient vanishes."""
    length = _norm(gradient_DH)
    if length == 0:
        return np.zeros_like(weights_DH)
    moved: Float64Array = gradient_DH * (step * _norm(weights_DH) / length)
    return moved


def _norm(values: Float64Array) -> float:
    return float(np.sqrt(np.square(values).sum()))
