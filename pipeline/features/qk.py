"""What attention scores are made of where a dictionary reads the residual stream in front of a head.

The norm in front of a layer divides each state by a number of its own; once that is known, queries and keys are linear
in the state. A state is a sum of its features, the decoder's bias and an error, so that a score is a sum over pairs of
parts of both sides, each side's biases being a part too. A score under a soft cap is taken apart before the cap.

Features also meet tokens, and each other, by weights alone: one unit of a feature's activation, at the scale that the
norms of the layer typically have on text.

Shapes: P positions, D model, H head dimension, F features, E features that fire at a position, C = E + 2 parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.features.encoder import Encoder, normalise
from qkatlas.pipeline.models.layers import standardised
from qkatlas.pipeline.models.rotary import Offsets

QUERY, KEY = 0, 1
"""Sides of a score."""

BIAS, ERROR = -2, -1
"""Where the last two parts of a state stand."""


def taken_apart(
    encoder: Encoder, x_PD: torch.Tensor, position: int, limit_P: torch.Tensor | None
) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
    """What one state is made of.

    Args:
        encoder: a dictionary of the residual stream.
        x_PD: float64 [P, D], states by the dictionary's convention.
        position: which of them.
        limit_P: `Encoder.limits` of all of them.

    Returns:
        The features that fire, int64 [E]; and the parts [C, D], whose sum is the state: what each of them writes, the
        decoder's bias with what a normalisation takes off, and what is left.
    """
    x_1D = x_PD[position : position + 1]
    normalised = normalise(encoder.config, x_1D)
    limit = None if limit_P is None else limit_P[position : position + 1]
    fires, rows = [], []
    for features in encoder.blocks():
        active_B = encoder.encode(encoder.input(x_1D), features, limit)[0][0]
        found_E = active_B.nonzero()[:, 0]
        if len(found_E):
            fires.append(features.start + found_E.numpy())
            rows.append(active_B[found_E, None] * encoder.written(features)[found_E] * normalised.back_P[0])
    b_dec_D = torch.from_numpy(encoder.tensors["b_dec"].astype(np.float64))
    bias_1D = (b_dec_D * normalised.back_P[0] + normalised.mean_P[0])[None]
    known_CD = torch.cat([*rows, bias_1D])
    parts_CD = torch.cat([known_CD, x_1D - known_CD.sum(dim=0)])
    return (np.concatenate(fires) if fires else np.zeros(0, np.int64)), parts_CD


def side_parts(
    weights: HeadWeights, side: int, x_D: torch.Tensor, parts_CD: torch.Tensor, position: int
) -> torch.Tensor:
    """What the parts of a state add to a head's query or key there, float64 [C, H]; their sum is the query or key.

    Args:
        weights: of the head.
        side: QUERY or KEY.
        x_D: float64 [D], the state.
        parts_CD: float64 [C, D], its parts; what the head has as biases goes to BIAS.
        position: where it stands.
    """
    projected_CH = _linear(weights, side, parts_CD) * _norm_scale(weights, x_D[None])[0]
    projected_CH[BIAS] += _bias(weights, side)
    gain_H = _head_gain(weights, side)
    if gain_H is not None:
        whole_H = projected_CH.sum(dim=0)
        projected_CH = projected_CH * gain_H * torch.rsqrt(whole_H.square().mean() + weights.eps)
    if weights.rotary is not None:
        where_C = np.full(len(projected_CH), position, np.float64)
        projected_CH = weights.rotary.turn(projected_CH, where_C)
    return projected_CH


@dataclass(frozen=True, kw_only=True)
class TypicalScales:
    """What a layer's norm, and a head's own, multiply states by: medians over text, for queries and for keys."""

    query: float
    key: float

    @classmethod
    def of(cls, weights: HeadWeights, x_PD: torch.Tensor) -> TypicalScales:
        """Those of a head.

        Args:
            weights: of the head.
            x_PD: float64 [P, D], states that enter its layer.
        """
        found = []
        for side in (QUERY, KEY):
            scale_P = _norm_scale(weights, x_PD)
            if _head_gain(weights, side) is not None:
                projected_PH = _linear(weights, side, x_PD) * scale_P[:, None] + _bias(weights, side)
                scale_P = scale_P * torch.rsqrt(projected_PH.square().mean(dim=1) + weights.eps)
            found.append(float(scale_P.median()))
        return cls(query=found[QUERY], key=found[KEY])


def feature_vectors(
    weights: HeadWeights, side: int, w_dec_FD: torch.Tensor, typical: TypicalScales, offset: Offsets | None
) -> npt.NDArray[np.float32]:
    """Queries or keys of one unit of each feature's activation, float32 [F, H].

    Args:
        weights: of the head.
        side: QUERY or KEY.
        w_dec_FD: float64 [F, D], what one unit writes.
        typical: scales of the norms.
        offset: positions from key to query, where the model turns them.
    """
    found_FH = _linear(weights, side, w_dec_FD) * (typical.query if side == QUERY else typical.key)
    gain_H = _head_gain(weights, side)
    if gain_H is not None:
        found_FH = found_FH * gain_H
    if weights.rotary is not None:
        assert offset is not None, "rotary positions ask for an offset"
        found_FH = weights.rotary.turn(found_FH, offset.values() if side == QUERY else np.zeros(1), mean=True)
    vectors: npt.NDArray[np.float32] = found_FH.numpy().astype(np.float32)
    return vectors


def _linear(weights: HeadWeights, side: int, rows_RD: torch.Tensor) -> torch.Tensor:
    """The linear part of a side, without the norm's scale: [R, H]."""
    half = weights.w_qk_D2H.shape[1] // 2
    own = slice(side * half, (side + 1) * half)
    centred_RD = rows_RD - rows_RD.mean(dim=1, keepdim=True) if weights.norm.kind == "layer" else rows_RD
    return centred_RD @ torch.from_numpy(weights.gain_D[:, None] * weights.w_qk_D2H[:, own])


def _bias(weights: HeadWeights, side: int) -> torch.Tensor:
    half = weights.w_qk_D2H.shape[1] // 2
    own = slice(side * half, (side + 1) * half)
    return torch.from_numpy(weights.shift_D @ weights.w_qk_D2H[:, own] + weights.b_qk_2H[own])


def _norm_scale(weights: HeadWeights, x_PD: torch.Tensor) -> torch.Tensor:
    """What the layer's norm multiplies each state by once it is centred, [P]."""
    normed_PD = standardised(x_PD, weights.norm)
    centred_PD = x_PD - x_PD.mean(dim=1, keepdim=True) if weights.norm.kind == "layer" else x_PD
    scale_P: torch.Tensor = normed_PD.norm(dim=1) / centred_PD.norm(dim=1)
    return scale_P


def _head_gain(weights: HeadWeights, side: int) -> torch.Tensor | None:
    gain_H = weights.query_gain_H if side == QUERY else weights.key_gain_H
    return None if gain_H is None else torch.from_numpy(gain_H)
