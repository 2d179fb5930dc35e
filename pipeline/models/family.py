"""What a family of models has to tell: its configuration, its tensors, and the weights of each part of a layer.

Shapes: D model, P outputs of a projection (a head's are next to each other), J neurons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qkatlas.pipeline.models.architecture import Architecture, Norm
from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.weights import Weights

UNEMBEDDING = "lm_head.weight"
"""Name of the unembedding, [V, D], in every family; a tied model has none."""


@dataclass(frozen=True)
class NormWeights:
    """A normalisation: its kind, and its weight and bias as stored, float32 [D]."""

    norm: Norm
    weight_D: np.ndarray
    bias_D: np.ndarray | None = None


@dataclass(frozen=True)
class Projection:
    """A linear map x -> x W + b: float32 [D, P], and [P] or None."""

    weight_DP: np.ndarray
    bias_P: np.ndarray | None = None


@dataclass(frozen=True)
class QueryKeyWeights:
    """What turns the states that enter a layer into the queries and keys of its heads."""

    norm: NormWeights
    queries: Projection
    keys: Projection
    query_norm: NormWeights | None = None
    key_norm: NormWeights | None = None
    """Of each head's queries and keys, [H]."""


@dataclass(frozen=True)
class ValueOutputWeights:
    """What turns normalised states into values, and mixed values into what is added to the residual stream."""

    values: Projection
    output: Projection
    after: NormWeights | None = None
    """Of what is added."""


@dataclass(frozen=True)
class MlpWeights:
    """A layer's MLP block."""

    norm: NormWeights
    inside: Projection
    """To what the activation is applied to."""
    outside: Projection
    times: Projection | None = None
    """To what activations are multiplied by."""
    after: NormWeights | None = None
    """Of what is added."""


class Family(Protocol):
    """Models whose tensors have the same names and whose layers are computed alike."""

    @property
    def name(self) -> str:
        """Its name, as `Architecture.family` holds it."""
        ...

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """`model_type` -> names of classes that say the same where a configuration has no `model_type`."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names that a tensor may have, without prefixes -> the name it has here."""
        ...

    @property
    def embedding(self) -> str:
        """Name of the token embedding, [V, D]."""
        ...

    def architecture(self, config: Config) -> Architecture:
        """Read a configuration.

        Raises:
            ValueError: for whatever of it is malformed, or is not computed exactly.
        """
        ...

    def shapes(self, architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the tensors that a model is made of, one by one, the unembedding left out."""
        ...

    def query_key(self, weights: Weights, layer: int) -> QueryKeyWeights:
        """A layer's projections to queries and keys."""
        ...

    def value_output(self, weights: Weights, layer: int) -> ValueOutputWeights:
        """A layer's projections to values and from them to the residual stream."""
        ...

    def mlp(self, weights: Weights, layer: int) -> MlpWeights:
        """A layer's MLP block."""
        ...

    def final_norm(self, weights: Weights) -> NormWeights:
        """The normalisation between the last layer and the unembedding."""
        ...
