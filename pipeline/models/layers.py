"""Parts of a transformer layer as they act on token states: its MLP, and its attention to a prefix and a token itself.

Shapes: D model, N query heads of a layer, M key heads, G = N/M queries of a key head, H head dimension, R rows of one
block, C tokens of the prefix, P outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from qkatlas.pipeline.models.activations import ACTIVATIONS
from qkatlas.pipeline.models.architecture import Norm
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.family import NormWeights, Projection
from qkatlas.pipeline.models.weights import Weights

Part = Callable[[torch.Tensor], torch.Tensor]
"""What a part adds to the residual stream, as a function of the stream: [R, D] -> [R, D]."""


def mlp(weights: Weights, layer: int) -> Part:
    """A layer's x -> MLP(norm(x))."""
    block = family_of(weights.architecture).mlp(weights, layer)
    normed, inside, outside = norm(block.norm), _project(block.inside), _project(block.outside)
    times = None if block.times is None else _project(block.times)
    after = None if block.after is None else norm(block.after)
    activation = ACTIVATIONS[weights.architecture.activation]

    def add(x_RD: torch.Tensor) -> torch.Tensor:
        normed_RD = normed(x_RD)
        hidden_RJ = activation(inside(normed_RD))
        added_RD = outside(hidden_RJ if times is None else hidden_RJ * times(normed_RD))
        return added_RD if after is None else after(added_RD)

    return add


class Attention:
    """A layer's x -> Attention(norm(x)) for tokens behind a prefix, which read it and themselves only.

    Args:
        weights: the model.
        layer: the layer, from 0.
        prefix_CD: float32 [C, D], what enters the layer at the prefix, positions 0 to C - 1.
    """

    def __init__(self, weights: Weights, layer: int, prefix_CD: torch.Tensor) -> None:
        a, family = weights.architecture, family_of(weights.architecture)
        scores, mixing = family.query_key(weights, layer), family.value_output(weights, layer)
        self._shape = a.n_heads, a.n_kv_heads, a.d_head
        self._scale, self._cap, self._rotary = a.score_scale(layer), a.score_cap, a.rotary_of(layer)
        self._window = a.window_of(layer)
        self._normed = norm(scores.norm)
        self._head_norms = [
            None if of_head is None else norm(of_head) for of_head in (scores.query_norm, scores.key_norm)
        ]
        parts = (scores.queries, scores.keys, mixing.values)
        self._fused = _side_by_side(parts)
        self._project = _project(self._fused)
        self._output = _project(mixing.output)
        self._after = None if mixing.after is None else norm(mixing.after)
        self.prefix_CD = prefix_CD
        query_CNH, key_CMH, self._value_CMH = self._heads(prefix_CD)
        self._query_CNH = query_CNH
        # Behind C tokens a query sees key j turned back by the C - j positions between them.
        self._raw_key_CMH = key_CMH
        self._key_CMH = self._turn(key_CMH, np.arange(len(prefix_CD)) - float(len(prefix_CD)))

    def after_prefix(self, x_RD: torch.Tensor) -> torch.Tensor:
        """What is added at position C, to tokens that read the prefix and themselves."""
        n_heads, n_kv_heads, d_head = self._shape
        query_RNH, key_RMH, value_RMH = self._heads(x_RD)
        query_RMGH = self._turn(query_RNH, np.zeros(1)).reshape(len(x_RD), n_kv_heads, -1, d_head)
        key_RM1H, value_RM1H = self._turn(key_RMH, np.zeros(1))[:, :, None], value_RMH[:, :, None]
        if len(self._key_CMH) == 1 and self._cap is None and self._window != 1:
            difference_RMG1 = (query_RMGH * (key_RM1H - self._key_CMH[:, :, None])).sum(dim=3, keepdim=True)
            own_RMG1 = torch.sigmoid(difference_RMG1 * self._scale)  # the softmax over two keys
            mixed_RMGH = self._value_CMH[:, :, None] + own_RMG1 * (value_RM1H - self._value_CMH[:, :, None])
        else:
            first = 0 if self._window is None else max(0, len(self._key_CMH) + 1 - self._window)
            prefix_RMGC = torch.einsum("rmgh,cmh->rmgc", query_RMGH, self._key_CMH[first:])
            own_RMG1 = (query_RMGH * key_RM1H).sum(dim=3, keepdim=True)
            share_RMGC = self._softmax(torch.cat([prefix_RMGC, own_RMG1], dim=3))
            mixed_RMGH = torch.einsum("rmgc,cmh->rmgh", share_RMGC[..., :-1], self._value_CMH[first:])
            mixed_RMGH = mixed_RMGH + share_RMGC[..., -1:] * value_RM1H
        return self._leave(mixed_RMGH.reshape(len(x_RD), n_heads * d_head))

    def at_prefix(self) -> torch.Tensor:
        """What is added to the prefix itself, [C, D]."""
        n_heads, n_kv_heads, d_head = self._shape
        count = len(self.prefix_CD)
        if count == 1:  # a single key has all the attention
            first = (n_heads + n_kv_heads) * d_head
            bias_P = self._fused.bias_P
            only = Projection(self._fused.weight_DP[:, first:], None if bias_P is None else bias_P[first:])
            value_CMH = _project(only)(self._normed(self.prefix_CD)).reshape(1, n_kv_heads, 1, d_head)
            mixed_CMGH = value_CMH.expand(-1, -1, n_heads // n_kv_heads, -1)
        else:
            position_C = np.arange(count, dtype=np.float64)
            query_CMGH = self._turn(self._query_CNH, position_C).reshape(count, n_kv_heads, -1, d_head)
            key_CMH = self._turn(self._raw_key_CMH, position_C)
            scores_MGCC = torch.einsum("cmgh,kmh->mgck", query_CMGH, key_CMH)
            between_CC = torch.arange(count)[:, None] - torch.arange(count)
            read_CC = (between_CC >= 0) & (between_CC < (self._window or count))
            share_MGCC = self._softmax(scores_MGCC, read_CC)
            mixed_CMGH = torch.einsum("mgck,kmh->cmgh", share_MGCC, self._value_CMH)
        return self._leave(mixed_CMGH.reshape(count, n_heads * d_head))

    def _heads(self, x_RD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of every head, before they are turned."""
        n_heads, n_kv_heads, d_head = self._shape
        heads_RXH = self._project(self._normed(x_RD)).reshape(len(x_RD), -1, d_head)
        query_RNH, key_RMH, value_RMH = heads_RXH.split([n_heads, n_kv_heads, n_kv_heads], dim=1)
        query_norm, key_norm = self._head_norms
        return (
            query_RNH if query_norm is None else query_norm(query_RNH),
            key_RMH if key_norm is None else key_norm(key_RMH),
            value_RMH,
        )

    def _turn(self, heads_RXH: torch.Tensor, position_R: np.ndarray) -> torch.Tensor:
        if self._rotary is None:
            return heads_RXH
        return self._rotary.turn(heads_RXH.transpose(0, 1), position_R).transpose(0, 1)

    def _softmax(self, dots: torch.Tensor, read: torch.Tensor | None = None) -> torch.Tensor:
        scores = dots * self._scale
        if self._cap is not None:
            scores = self._cap * torch.tanh(scores / self._cap)
        return (scores if read is None else scores.masked_fill(~read, -torch.inf)).softmax(dim=-1)

    def _leave(self, mixed_RP: torch.Tensor) -> torch.Tensor:
        added_RD = self._output(mixed_RP)
        return added_RD if self._after is None else self._after(added_RD)


def norm(weights: NormWeights) -> Part:
    """A normalisation of the last dimension."""
    weight_D = torch.from_numpy(weights.weight_D)
    gain_D = 1 + weight_D if weights.norm.plus_one else weight_D
    bias_D = None if weights.bias_D is None else torch.from_numpy(weights.bias_D)
    return lambda x_RD: standardised(x_RD, weights.norm, gain_D, bias_D)


def standardised(
    x: torch.Tensor, norm: Norm, gain_D: torch.Tensor | None = None, bias_D: torch.Tensor | None = None
) -> torch.Tensor:
    """Normalise the last dimension, in the numbers' own precision.

    Args:
        x: [..., D].
        norm: the normalisation; RMSNorm centres nothing.
        gain_D: what is multiplied afterwards; None = nothing.
        bias_D: what is added then.
    """
    if norm.kind == "layer":
        return functional.layer_norm(x, x.shape[-1:], gain_D, bias_D, norm.eps)
    assert norm.kind == "rms", norm.kind
    assert bias_D is None
    scaled = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + norm.eps)
    return scaled if gain_D is None else scaled * gain_D


def _side_by_side(parts: tuple[Projection, ...]) -> Projection:
    """Several projections of the same states as one; where only some have a bias the others' is zero."""
    biases = [part.bias_P for part in parts]
    if all(bias_P is None for bias_P in biases):
        bias = None
    else:
        widths = [part.weight_DP.shape[1] for part in parts]
        filled = zip(biases, widths, strict=True)
        bias = np.concatenate([np.zeros(n, np.float32) if bias_P is None else bias_P for bias_P, n in filled])
    return Projection(np.concatenate([part.weight_DP for part in parts], axis=1), bias)


def _project(projection: Projection) -> Part:
    weight_DP = torch.from_numpy(projection.weight_DP)
    if projection.bias_P is None:
        return lambda x_RD: x_RD @ weight_DP
    bias_P = torch.from_numpy(projection.bias_P)
    return lambda x_RD: torch.addmm(bias_P, x_RD, weight_DP)
