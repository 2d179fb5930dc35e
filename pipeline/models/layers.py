"""Parts of a transformer layer as they act on token states: its MLP, and its attention from a token to BOS and itself.

Shapes: D model, N heads of a layer, H head dimension, R rows of one block, P outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional

from qkatlas.pipeline.models.activations import ACTIVATIONS
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.family import NormWeights, Projection
from qkatlas.pipeline.models.weights import Weights

Part = Callable[[torch.Tensor], torch.Tensor]
"""What a part adds to the residual stream, as a function of the stream: [R, D] -> [R, D]."""


def mlp(weights: Weights, layer: int) -> Part:
    """A layer's x -> MLP(norm(x))."""
    block = family_of(weights.architecture).mlp(weights, layer)
    normed, inside, outside = _norm(block.norm), _project(block.inside), _project(block.outside)
    activation = ACTIVATIONS[weights.architecture.activation]
    return lambda x_RD: outside(activation(inside(normed(x_RD))))


def attention_after_bos(weights: Weights, layer: int, bos_1D: Float32[np.ndarray, "1 D"]) -> Part:
    """A layer's x -> Attention(norm(x)) for tokens at position 1, whose only other key is BOS at position 0.

    Args:
        weights: the model.
        layer: the layer, from 0.
        bos_1D: float32 [1, D], what enters the layer at BOS.
    """
    scale, n_heads = weights.architecture.score_scale(layer), weights.architecture.n_heads
    normed, fused, output = _attention(weights, layer)
    project_all = _project(fused)

    def project(x_RD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return project_all(normed(x_RD)).reshape(len(x_RD), 3, n_heads, -1).unbind(dim=1)

    _, bos_key_1NH, bos_value_1NH = project(torch.from_numpy(bos_1D))

    def add(x_RD: torch.Tensor) -> torch.Tensor:
        query_RNH, key_RNH, value_RNH = project(x_RD)
        difference_RN1 = (query_RNH * (key_RNH - bos_key_1NH)).sum(dim=2, keepdim=True) * scale
        own_RN1 = torch.sigmoid(difference_RN1)  # the softmax over two keys
        mixed_RNH = bos_value_1NH + own_RN1 * (value_RNH - bos_value_1NH)
        return output(mixed_RNH.reshape(len(x_RD), -1))

    return add


def attention_at_bos(weights: Weights, layer: int) -> Part:
    """A layer's x -> Attention(norm(x)) for BOS at position 0, whose only key is itself."""
    normed, fused, output = _attention(weights, layer)
    first = 2 * weights.architecture.d_model
    values = _project(Projection(fused.weight_DP[:, first:], None if fused.bias_P is None else fused.bias_P[first:]))
    return lambda x_RD: output(values(normed(x_RD)))


def _attention(weights: Weights, layer: int) -> tuple[Part, Projection, Part]:
    """A layer's norm, its projections to queries, keys and values side by side, and its output projection."""
    family = family_of(weights.architecture)
    scores, mixing = family.query_key(weights, layer), family.value_output(weights, layer)
    parts = (scores.queries, scores.keys, mixing.values)
    fused = Projection(
        np.concatenate([part.weight_DP for part in parts], axis=1),
        np.concatenate([part.bias_P for part in parts if part.bias_P is not None]),
    )
    return _norm(scores.norm), fused, _project(mixing.output)


def _norm(norm: NormWeights) -> Part:
    assert norm.norm.kind == "layer"
    assert norm.bias_D is not None
    weight_D, bias_D = torch.from_numpy(norm.weight_D), torch.from_numpy(norm.bias_D)
    return lambda x_RD: functional.layer_norm(x_RD, weight_D.shape, weight_D, bias_D, norm.norm.eps)


def _project(projection: Projection) -> Part:
    weight_DP = torch.from_numpy(projection.weight_DP)
    if projection.bias_P is None:
        return lambda x_RD: x_RD @ weight_DP
    bias_P = torch.from_numpy(projection.bias_P)
    return lambda x_RD: torch.addmm(bias_P, x_RD, weight_DP)
