"""Queries and keys of one head for every token, or the factors of its bilinear form.

Shapes: V vocabulary, D model, H head dimension, R rows of one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch.nn import functional

from qkatlas.pipeline.circuit.kinds import SCORES
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import Weights


@dataclass(frozen=True)
class HeadWeights:
    """What turns the states that enter a layer into the queries and keys of one of its heads, in float64.

    Attributes:
        gain_D, shift_D: LayerNorm's weight and bias as applied to the states.
        w_qk_D2H: projections to queries and to keys, side by side.
        b_qk_2H: their biases.
        eps: LayerNorm's epsilon.
        scale: factor from the dot product of a query and a key to their score.
    """

    gain_D: Float64[np.ndarray, " D"]
    shift_D: Float64[np.ndarray, " D"]
    w_qk_D2H: Float64[np.ndarray, "D QK"]
    b_qk_2H: Float64[np.ndarray, " QK"]
    eps: float
    scale: float


@dataclass(frozen=True)
class HeadInputs:
    """All that scoring one head needs.

    Attributes:
        queries_VH: float32 [V, H].
        keys_VH: float32 [V, H].
        scale: factor from the dot product of a query and a key to their score.
    """

    queries_VH: Float32[np.ndarray, "V H"]
    keys_VH: Float32[np.ndarray, "V H"]
    scale: float


def head_weights(weights: Weights, head: Head, *, scores: str = "attention") -> HeadWeights:
    """Read what turns token states into the queries and keys of one head.

    Args:
        weights: the model.
        head: the head.
        scores: `attention` or `bilinear`.

    Returns:
        The weights, in float64.

    Raises:
        ValueError: if the head is outside the model or the form of the score is unknown.
    """
    architecture = weights.architecture
    head.require_inside(architecture.n_layers, architecture.n_heads)
    if scores not in SCORES:
        raise ValueError(f"scores {scores!r} are unknown; choose one of {', '.join(SCORES)}")
    own = slice(head.index * architecture.d_head, (head.index + 1) * architecture.d_head)
    of_head = _columns_weights(weights, head.layer, own)
    if scores == "attention":
        return of_head
    ones_D, zeros_D = np.ones_like(of_head.gain_D), np.zeros_like(of_head.shift_D)
    folded_D2H = of_head.gain_D[:, None] * of_head.w_qk_D2H
    return HeadWeights(ones_D, zeros_D, folded_D2H, np.zeros_like(of_head.b_qk_2H), of_head.eps, 1.0)


def layer_weights(weights: Weights, layer: int) -> HeadWeights:
    """Read what turns token states into the queries and keys of all heads of a layer, one head after the other.

    Args:
        weights: the model.
        layer: the layer.

    Returns:
        The weights as of one head of width N H, in float64.
    """
    return _columns_weights(weights, layer, slice(0, weights.architecture.d_model))


def _columns_weights(weights: Weights, layer: int, columns: slice) -> HeadWeights:
    """The weights of some columns of a layer's queries and of its keys."""
    part = family_of(weights.architecture).query_key(weights, layer)
    assert part.norm.bias_D is not None
    both = (part.queries, part.keys)
    return HeadWeights(
        gain_D=part.norm.weight_D.astype(np.float64),
        shift_D=part.norm.bias_D.astype(np.float64),
        w_qk_D2H=np.concatenate([of.weight_DP[:, columns] for of in both], axis=1, dtype=np.float64),
        b_qk_2H=np.concatenate([of.bias_P[columns] for of in both if of.bias_P is not None], dtype=np.float64),
        eps=part.norm.norm.eps,
        scale=weights.architecture.score_scale(layer),
    )


def head_inputs(weights: HeadWeights, states_VD: Float32[np.ndarray, "V D"], *, threads: int) -> HeadInputs:
    """Queries and keys of one head for the given token states.

    `attention`: Q = LN(X) W_Q + b_Q, K = LN(X) W_K + b_K with the layer's LayerNorm weight and bias, and the model's
    own scale (1/sqrt(H)), so that Q K^T * scale is the pre-softmax attention score in nats. `bilinear`: Q = N W'_Q,
    K = N W'_K with N the normalised states and W' = diag(LN weight) W; no biases and no scale.

    Args:
        weights: of the head, which fix the form of the score.
        states_VD: float32 [V, D], the states that enter the head's layer.
        threads: threads to use; the result does not depend on it.

    Returns:
        The queries, keys and scale.

    Raises:
        ValueError: if a query, a key or a score would leave the range of float32.
    """
    gain_D, shift_D, w_qk_D2H, b_qk_2H = (
        torch.from_numpy(values) for values in (weights.gain_D, weights.shift_D, weights.w_qk_D2H, weights.b_qk_2H)
    )
    # One product gives queries and keys. It is taken in float64 and rounded once: that costs little beside the scores,
    # and leaves them the error of the states alone.
    projected_V2H = np.empty((len(states_VD), len(b_qk_2H)), np.float32)

    def project(rows: slice) -> None:
        x_RD = torch.from_numpy(states_VD[rows].astype(np.float64))
        normed_RD = functional.layer_norm(x_RD, gain_D.shape, gain_D, shift_D, weights.eps)
        projected_V2H[rows] = torch.addmm(b_qk_2H, normed_RD, w_qk_D2H)

    for_blocks(len(states_VD), project, threads)
    queries_VH, keys_VH = (np.ascontiguousarray(half) for half in np.split(projected_V2H, 2, axis=1))
    _require_representable(queries_VH, keys_VH, weights.scale)
    return HeadInputs(queries_VH, keys_VH, weights.scale)


def _require_representable(queries_VH: np.ndarray, keys_VH: np.ndarray, scale: float) -> None:
    largest = []
    for what, values_VH in (("query", queries_VH), ("key", keys_VH)):
        finite_V = np.isfinite(values_VH).all(axis=1)
        if not finite_V.all():
            raise ValueError(
                f"the {what} of token {int(np.argmin(finite_V))} is not finite in float32; the model's weights are too "
                "large or its LayerNorm divides by zero; use a sound checkpoint"
            )
        largest.append(float(np.linalg.norm(values_VH.astype(np.float64), axis=1).max()))
    bound = largest[0] * largest[1] * scale
    if bound > float(np.finfo(np.float32).max):
        raise ValueError(
            f"scores may reach {bound:.1e}, more than float32 can hold; use a checkpoint of smaller weights"
        )


def bilinear_factors(weights: Weights, head: Head) -> tuple[Float64[np.ndarray, "D H"], Float64[np.ndarray, "D H"]]:
    """Factors of a head's bilinear form W' = W'_Q W'_K^T on normalised states, with the LayerNorm weight folded in.

    Args:
        weights: the model.
        head: the head.

    Returns:
        W'_Q = diag(LayerNorm weight) W_Q and W'_K likewise, float64 [D, H] each; biases are no part of them.

    Raises:
        ValueError: if the head is outside the model.
    """
    w_q_DH, w_k_DH = np.split(head_weights(weights, head, scores="bilinear").w_qk_D2H, 2, axis=1)
    return w_q_DH, w_k_DH
