"""Queries and keys of one head for every token, or the factors of its bilinear form.

Shapes: V vocabulary, D model, N query heads, H head dimension, R rows of one block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64

from qkatlas.pipeline.circuit.forms import NO_FORM, require_bilinear
from qkatlas.pipeline.circuit.kinds import SCORES
from qkatlas.pipeline.models.architecture import Architecture, Norm
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.family import NormWeights, Projection
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.layers import standardised
from qkatlas.pipeline.models.rotary import Offsets, Rotary
from qkatlas.pipeline.models.weights import Weights


@dataclass(frozen=True)
class HeadWeights:
    """What turns the states that enter a layer into the queries and keys of one of its heads, in float64.

    Attributes:
        gain_D, shift_D: the norm's gain and bias as applied to the states.
        w_qk_D2H: projections to queries and to keys, side by side.
        b_qk_2H: their biases.
        eps: the norm's epsilon.
        scale: factor from the dot product of a query and a key to their score.
        norm_kind: as in `Norm`.
        cap: the score x is cap tanh(x / cap); None = it is x.
        rotary: how queries and keys are turned; None where positions are learned, or the turn is folded in.
        query_gain_H, key_gain_H: of the norms of the head's queries and keys, where it has them.
        n_ctx: positions that the layer reads; an offset lies below.
        d_head: width of a head, H, where several lie side by side.
    """

    gain_D: Float64[np.ndarray, " D"]
    shift_D: Float64[np.ndarray, " D"]
    w_qk_D2H: Float64[np.ndarray, "D QK"]
    b_qk_2H: Float64[np.ndarray, " QK"]
    eps: float
    scale: float
    norm_kind: str = "layer"
    cap: float | None = None
    rotary: Rotary | None = None
    query_gain_H: Float64[np.ndarray, " H"] | None = None
    key_gain_H: Float64[np.ndarray, " H"] | None = None
    n_ctx: int | None = None
    d_head: int | None = None

    @property
    def norm(self) -> Norm:
        """The norm, without its gain and bias."""
        return Norm(kind=self.norm_kind, eps=self.eps)


@dataclass(frozen=True)
class HeadInputs:
    """All that scoring one head needs.

    Attributes:
        queries_VH: float32 [V, H].
        keys_VH: float32 [V, H].
        scale: factor from the dot product of a query and a key to their score.
        cap: the score x is cap tanh(x / cap), which keeps the order of keys; None = it is x.
    """

    queries_VH: Float32[np.ndarray, "V H"]
    keys_VH: Float32[np.ndarray, "V H"]
    scale: float
    cap: float | None = None

    def capped(self, scores: np.ndarray) -> np.ndarray:
        """Scores as the model has them, from products of queries and keys times the scale; of any shape."""
        if self.cap is None:
            return scores
        mapped: np.ndarray = (self.cap * np.tanh(scores.astype(np.float64) / self.cap)).astype(scores.dtype)
        return mapped


def head_weights(weights: Weights, head: Head, *, scores: str = "attention") -> HeadWeights:
    """Read what turns token states into the queries and keys of one head.

    Args:
        weights: the model.
        head: the head.
        scores: `attention` or `bilinear`.

    Returns:
        The weights, in float64.

    Raises:
        ValueError: if the head is outside the model, the form of the score is unknown, or it has no bilinear form.
    """
    architecture = weights.architecture
    head.require_inside(architecture.n_layers, architecture.n_heads)
    if scores not in SCORES:
        raise ValueError(f"scores {scores!r} are unknown; choose one of {', '.join(SCORES)}")
    of_head = _heads_weights(weights, head.layer, [head.index])
    if scores == "attention":
        return of_head
    require_bilinear(architecture)
    return replace(
        of_head,
        gain_D=np.ones_like(of_head.gain_D),
        shift_D=np.zeros_like(of_head.shift_D),
        w_qk_D2H=of_head.gain_D[:, None] * of_head.w_qk_D2H,
        b_qk_2H=np.zeros_like(of_head.b_qk_2H),
        scale=1.0,
        cap=None,
    )


def layer_weights(weights: Weights, layer: int) -> HeadWeights:
    """Read what turns token states into the queries and keys of all heads of a layer, one head after the other.

    Args:
        weights: the model.
        layer: the layer.

    Returns:
        The weights as of one head of width N H, in float64; a key head stands there for each query head that reads it.
    """
    return _heads_weights(weights, layer, range(weights.architecture.n_heads))


def _heads_weights(weights: Weights, layer: int, heads: Sequence[int]) -> HeadWeights:
    a = weights.architecture
    part = family_of(a).query_key(weights, layer)
    group = a.n_heads // a.n_kv_heads
    columns = (head_columns(heads, a), head_columns([head // group for head in heads], a))
    both = tuple(zip((part.queries, part.keys), columns, strict=True))
    gain_D = gain_of(part.norm)
    return HeadWeights(
        gain_D=gain_D,
        shift_D=np.zeros_like(gain_D) if part.norm.bias_D is None else part.norm.bias_D.astype(np.float64),
        # Row by row, for the order of a matrix in memory may change the last bits of its products.
        w_qk_D2H=np.ascontiguousarray(
            np.concatenate([of.weight_DP[:, own] for of, own in both], axis=1, dtype=np.float64)
        ),
        b_qk_2H=np.concatenate([bias_of(of, own) for of, own in both], dtype=np.float64),
        eps=part.norm.norm.eps,
        scale=a.score_scale(layer),
        norm_kind=part.norm.norm.kind,
        cap=a.score_cap,
        rotary=a.rotary_of(layer),
        query_gain_H=None if part.query_norm is None else gain_of(part.query_norm),
        key_gain_H=None if part.key_norm is None else gain_of(part.key_norm),
        n_ctx=min(a.n_ctx, a.window_of(layer) or a.n_ctx),
        d_head=a.d_head,
    )


def head_columns(heads: Sequence[int], a: Architecture) -> np.ndarray:
    """Columns of a projection that belong to some heads."""
    columns: np.ndarray = (np.asarray(heads)[:, None] * a.d_head + np.arange(a.d_head)).ravel()
    return columns


def bias_of(projection: Projection, columns: np.ndarray) -> np.ndarray:
    """The bias of some outputs of a projection; zeros where it has none."""
    return np.zeros(len(columns)) if projection.bias_P is None else projection.bias_P[columns]


def gain_of(norm: NormWeights) -> Float64[np.ndarray, " D"]:
    """What a norm multiplies by, in float64."""
    gain: Float64[np.ndarray, " D"] = norm.weight_D.astype(np.float64)
    return 1 + gain if norm.norm.plus_one else gain


def head_inputs(
    weights: HeadWeights,
    states_VD: Float32[np.ndarray, "V D"],
    *,
    offset: Offsets | None = None,
    threads: int,
) -> HeadInputs:
    """Queries and keys of one head for the given token states.

    `attention`: Q = norm(X) W_Q + b_Q, K = norm(X) W_K + b_K with the layer's own norm, and the model's own scale
    (mostly 1/sqrt(H)), so that Q K^T * scale is the pre-softmax attention score in nats. `bilinear`: Q = N W'_Q,
    K = N W'_K with N the normalised states and W' = diag(gain) W; no biases and no scale.

    Where a model turns queries and keys, the queries are turned by the offset: the score of a query so many positions
    after a key. The queries of a range of offsets are the mean of those of its offsets, whose scores are the mean of
    the scores.

    Args:
        weights: of the head, which fix the form of the score.
        states_VD: float32 [V, D], the states that enter the head's layer.
        offset: positions between key and query, where the model turns them.
        threads: threads to use; the result does not depend on it.

    Returns:
        The queries, keys and scale.

    Raises:
        ValueError: if there is an offset and none can be, or none and there has to be one, or a query, a key or a score
            would leave the range of float32.
    """
    _require_offset(weights, offset)
    gain_D, shift_D, w_qk_D2H, b_qk_2H = (
        torch.from_numpy(values) for values in (weights.gain_D, weights.shift_D, weights.w_qk_D2H, weights.b_qk_2H)
    )
    # One product gives queries and keys. It is taken in float64 and rounded once: that costs little beside the scores,
    # and leaves them the error of the states alone.
    projected_V2H = np.empty((len(states_VD), len(b_qk_2H)), np.float32)

    def project(rows: slice) -> None:
        x_RD = torch.from_numpy(states_VD[rows].astype(np.float64))
        normed_RD = standardised(x_RD, weights.norm, gain_D, shift_D if weights.norm.kind == "layer" else None)
        projected_V2H[rows] = _as_heads_see(torch.addmm(b_qk_2H, normed_RD, w_qk_D2H), weights, offset)

    for_blocks(len(states_VD), project, threads)
    queries_VH, keys_VH = (np.ascontiguousarray(half) for half in np.split(projected_V2H, 2, axis=1))
    require_representable({"query": queries_VH, "key": keys_VH}, weights.scale)
    return HeadInputs(queries_VH, keys_VH, weights.scale, weights.cap)


def unturned(weights: HeadWeights, states_RD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys of some states before they are turned by their positions, not rounded.

    Args:
        weights: of the head.
        states_RD: float64 [R, D], the states that enter the head's layer.

    Returns:
        float64 [R, H] each.
    """
    gain_D, shift_D, w_qk_D2H, b_qk_2H = (
        torch.from_numpy(values) for values in (weights.gain_D, weights.shift_D, weights.w_qk_D2H, weights.b_qk_2H)
    )
    normed_RD = standardised(states_RD, weights.norm, gain_D, shift_D if weights.norm.kind == "layer" else None)
    projected_R2H = torch.addmm(b_qk_2H, normed_RD, w_qk_D2H)
    query_RH, key_RH = _as_heads_see(projected_R2H, replace(weights, rotary=None), None).chunk(2, dim=1)
    return query_RH, key_RH


def _as_heads_see(projected_R2H: torch.Tensor, weights: HeadWeights, offset: Offsets | None) -> torch.Tensor:
    """Queries and keys normalised and turned as a model does it, head by head."""
    if weights.query_gain_H is None and weights.rotary is None:
        return projected_R2H
    assert weights.d_head is not None
    both = projected_R2H.reshape(len(projected_R2H), 2, -1, weights.d_head).unbind(dim=1)
    gains = weights.query_gain_H, weights.key_gain_H
    query_RNH, key_RNH = (
        part_RNH if gain_H is None else standardised(part_RNH, weights.norm, torch.from_numpy(gain_H))
        for part_RNH, gain_H in zip(both, gains, strict=True)
    )
    if weights.rotary is not None and offset is not None:
        query_RNH = weights.rotary.turn(query_RNH, offset.values(), mean=True)
        key_RNH = weights.rotary.turn(key_RNH, np.zeros(1), mean=True)
    return torch.stack([query_RNH, key_RNH], dim=1).reshape(projected_R2H.shape)


def turned(weights: HeadWeights, offset: Offsets | None) -> HeadWeights:
    """Weights of a head whose queries are turned by an offset once for all, for what works on its bilinear form.

    Args:
        weights: of the head.
        offset: as in `head_inputs`.

    Returns:
        Weights that give the same queries and keys without an offset.

    Raises:
        ValueError: if the offset is impossible, or the head normalises its queries and keys and has no bilinear form.
    """
    _require_offset(weights, offset)
    if weights.query_gain_H is not None:
        raise ValueError(NO_FORM)
    if weights.rotary is None or offset is None:
        return weights
    halves = [np.split(values, 2, axis=-1) for values in (weights.w_qk_D2H, weights.b_qk_2H)]
    position_by_half = offset.values(), np.zeros(1)
    w_qk_D2H, b_qk_2H = (
        np.concatenate(
            [
                weights.rotary.turn(torch.from_numpy(half), position, mean=True).numpy()
                for half, position in zip(both, position_by_half, strict=True)
            ],
            axis=-1,
        )
        for both in halves
    )
    return replace(weights, w_qk_D2H=w_qk_D2H, b_qk_2H=b_qk_2H, rotary=None)


def _require_offset(weights: HeadWeights, offset: Offsets | None) -> None:
    if weights.rotary is None:
        if offset is not None:
            raise ValueError(
                f"offset {offset} has no meaning here: the model's positions are learned and added to its embedding; "
                "leave it out"
            )
        return
    if offset is None:
        raise ValueError("the model turns queries and keys by their positions, so scores need an offset; give 1")
    if weights.n_ctx is not None and offset.last >= weights.n_ctx:
        raise ValueError(f"offset {offset} is further back than the head reads; give one from 0 to {weights.n_ctx - 1}")
    if weights.cap is not None and offset.first != offset.last:
        raise ValueError(
            f"offset {offset} is a mean, and the head caps its scores, whose mean is no score of a mean query; "
            "give one offset"
        )


def require_representable(sides: Mapping[str, np.ndarray], scale: float) -> None:
    """Check that two sides of a product, and every product of theirs, are numbers of float32.

    Args:
        sides: what each is called, and float32 [V, H].
        scale: factor from a product to a score.

    Raises:
        ValueError: if they are not; names the first token.
    """
    largest = []
    for what, values_VH in sides.items():
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


def bilinear_factors(
    weights: Weights, head: Head, *, offset: Offsets | None = None
) -> tuple[Float64[np.ndarray, "D H"], Float64[np.ndarray, "D H"]]:
    """Factors of a head's bilinear form W' = W'_Q W'_K^T on normalised states, with the norm's gain folded in.

    Args:
        weights: the model.
        head: the head.
        offset: as in `head_inputs`; W'_Q is turned by it.

    Returns:
        W'_Q = diag(gain) W_Q and W'_K likewise, float64 [D, H] each; biases are no part of them.

    Raises:
        ValueError: if the head is outside the model or has no bilinear form, or the offset is impossible.
    """
    folded = turned(head_weights(weights, head, scores="bilinear"), offset)
    w_q_DH, w_k_DH = np.split(folded.w_qk_D2H, 2, axis=1)
    return w_q_DH, w_k_DH
