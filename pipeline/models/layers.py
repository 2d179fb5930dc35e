"""Parts of a transformer layer as they act on token states: its MLP, and its attention to a context and a token itself.

Shapes: D model, N query heads of a layer, M key heads, G = N/M queries of a key head, H head dimension, R rows of one
block, B contexts, C tokens of a context, P outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from qkatlas.pipeline.models.activations import ACTIVATIONS
from qkatlas.pipeline.models.architecture import Norm
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.family import NormWeights, Projection
from qkatlas.pipeline.models.reach import reach
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


@dataclass(frozen=True)
class Context:
    """What a token reads in front of itself: [C, M, H], or [B, C, M, H] of several contexts.

    Attributes:
        keys: turned as a query at position C sees them.
        values: the values.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __getitem__(self, chosen: Any) -> Context:
        return Context(self.keys[chosen], self.values[chosen])


class Attention:
    """A layer's x -> Attention(norm(x)), for tokens that read some context and themselves only.

    Args:
        weights: the model.
        layer: the layer, from 0.
    """

    def __init__(self, weights: Weights, layer: int) -> None:
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

    def within(self, x_BCD: torch.Tensor) -> tuple[torch.Tensor, Context]:
        """What is added to contexts themselves, each of which reads itself from its first position on.

        Args:
            x_BCD: float32 [B, C, D], what enters the layer at positions 0 to C - 1 of each context.

        Returns:
            What is added, [B, C, D], and what a token at position C reads of them.
        """
        n_heads, n_kv_heads, d_head = self._shape
        count, length, _ = x_BCD.shape
        x_RD = x_BCD.reshape(count * length, -1)
        query_RNH, raw_key_RMH, value_RMH = self._heads(x_RD)
        value_BCMH = value_RMH.reshape(count, length, n_kv_heads, d_head)
        position_R = np.tile(np.arange(length, dtype=np.float64), count)
        # Behind C tokens a query sees key j turned back by the C - j positions between them.
        seen_BCMH = self._turn(raw_key_RMH, position_R - length).reshape(count, length, n_kv_heads, d_head)
        if length == 1:  # a single key has all the attention
            first = (n_heads + n_kv_heads) * d_head
            bias_P = self._fused.bias_P
            only = Projection(self._fused.weight_DP[:, first:], None if bias_P is None else bias_P[first:])
            only_RM1H = _project(only)(self._normed(x_RD)).reshape(count, n_kv_heads, 1, d_head)
            mixed = only_RM1H.expand(-1, -1, n_heads // n_kv_heads, -1)
        else:
            query_BCMGH = self._turn(query_RNH, position_R).reshape(count, length, n_kv_heads, -1, d_head)
            key_BCMH = self._turn(raw_key_RMH, position_R).reshape(count, length, n_kv_heads, d_head)
            scores_BMGCC = torch.einsum("bcmgh,bkmh->bmgck", query_BCMGH, key_BCMH)
            share_BMGCC = self._softmax(scores_BMGCC, reach(length, self._window))
            mixed = torch.einsum("bmgck,bkmh->bcmgh", share_BMGCC, value_BCMH)
        added_RD = self._leave(mixed.reshape(count * length, n_heads * d_head))
        return added_RD.reshape(x_BCD.shape), Context(seen_BCMH, value_BCMH)

    def behind(self, x_RD: torch.Tensor, context: Context) -> torch.Tensor:
        """What is added at position C, to tokens that read a context and themselves.

        Args:
            x_RD: float32 [R, D], what enters the layer at the tokens.
            context: what they read, of one context for all or of one for each.

        Returns:
            What is added, [R, D].
        """
        n_heads, n_kv_heads, d_head = self._shape
        key, value = context.keys, context.values
        length = key.shape[-3]
        query_RNH, own_key_RMH, own_value_RMH = self._heads(x_RD)
        query_RMGH = self._turn(query_RNH, np.zeros(1)).reshape(len(x_RD), n_kv_heads, -1, d_head)
        key_RM1H, value_RM1H = self._turn(own_key_RMH, np.zeros(1))[:, :, None], own_value_RMH[:, :, None]
        if length == 1 and self._cap is None and self._window != 1:
            difference_RMG1 = (query_RMGH * (key_RM1H - key[..., 0, :, None, :])).sum(dim=3, keepdim=True)
            own_RMG1 = torch.sigmoid(difference_RMG1 * self._scale)  # the softmax over two keys
            other = value[..., 0, :, None, :]
            mixed_RMGH = other + own_RMG1 * (value_RM1H - other)
        else:
            first = 0 if self._window is None else max(0, length + 1 - self._window)
            of_context = "cmh" if key.dim() == 3 else "rcmh"
            context_RMGC = torch.einsum(f"rmgh,{of_context}->rmgc", query_RMGH, key[..., first:, :, :])
            own_RMG1 = (query_RMGH * key_RM1H).sum(dim=3, keepdim=True)
            share_RMGC = self._softmax(torch.cat([context_RMGC, own_RMG1], dim=3))
            mixed_RMGH = torch.einsum(f"rmgc,{of_context}->rmgh", share_RMGC[..., :-1], value[..., first:, :, :])
            mixed_RMGH = mixed_RMGH + share_RMGC[..., -1:] * value_RM1H
        return self._leave(mixed_RMGH.reshape(len(x_RD), n_heads * d_head))

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
        scores = capped(dots * self._scale, self._cap)
        return (scores if read is None else scores.masked_fill(~read, -torch.inf)).softmax(dim=-1)

    def _leave(self, mixed_RP: torch.Tensor) -> torch.Tensor:
        added_RD = self._output(mixed_RP)
        return added_RD if self._after is None else self._after(added_RD)


def capped(values: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Scores or logits under a soft cap, cap tanh(x / cap), which keeps their order; None = as they are."""
    return values if cap is None else cap * torch.tanh(values / cap)


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
