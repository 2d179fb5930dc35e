"""The form of a head's mapping as MAPS published it, for comparison with what is defined here (`ov`).

Sources are the embedding itself in layer 0 and MLP_0 of it in later layers, without the embedding beside it. Neither
the layer's norm nor any bias is applied, and the unembedding is read as it is.

Shapes: S tokens, D model, H head dimension.

Source:
    A. Elhelo and M. Geva, "Inferring Functionality of Attention Heads from their Parameters" (arXiv 2412.11965).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32

from qkatlas.pipeline.circuit.ov import OvWeights
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.layers import mlp
from qkatlas.pipeline.models.weights import Weights


def published_states(
    weights: Weights, token_ids: Sequence[int], layer: int, *, first_mlp: bool
) -> Float32[np.ndarray, "S D"]:
    """What a layer reads of some tokens.

    Args:
        weights: the model.
        token_ids: the tokens.
        layer: the layer.
        first_mlp: whether MLP_0 is applied in front of layers from 1 on.
    """
    embedding_SD = np.ascontiguousarray(weights.tensor(family_of(weights.architecture).embedding)[list(token_ids)])
    if layer == 0 or not first_mlp:
        return embedding_SD
    return np.ascontiguousarray(mlp(weights, 0)(torch.from_numpy(embedding_SD)).numpy())


def published_values(weights: OvWeights, states_SD: Float32[np.ndarray, "S D"]) -> Float32[np.ndarray, "S H"]:
    """Values without norm and biases.

    Args:
        weights: of the head.
        states_SD: `published_states`.
    """
    return np.ascontiguousarray((states_SD.astype(np.float64) @ weights.w_v_DH).astype(np.float32))
