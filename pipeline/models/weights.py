"""A model's weights, wherever they are: on disk or in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from qkatlas.pipeline.models.architecture import Architecture


@runtime_checkable
class Weights(Protocol):
    """What the mathematics asks of a model."""

    @property
    def architecture(self) -> Architecture:
        """The model's shape."""
        ...

    def tensor_names(self) -> Iterable[str]:
        """Names of all tensors that the model is made of."""
        ...

    def tensor(self, name: str) -> np.ndarray:
        """A float32 tensor by its name in the family, without prefixes; not to be changed."""
        ...


@dataclass(frozen=True)
class ModelWeights:
    """A model in memory, as it is sent to workers.

    Attributes:
        key: hash of the weights.
        architecture: the model's shape.
        tensors: float32 arrays by their names in the family.
    """

    key: str
    architecture: Architecture
    tensors: Mapping[str, np.ndarray]

    @classmethod
    def read(cls, weights: Weights, key: str) -> ModelWeights:
        """Read all weights of a model.

        Args:
            weights: the model.
            key: hash of its weights.
        """
        return cls(key, weights.architecture, {name: weights.tensor(name) for name in weights.tensor_names()})

    def tensor_names(self) -> Iterable[str]:
        """See `Weights.tensor_names`."""
        return self.tensors

    def tensor(self, name: str) -> np.ndarray:
        """See `Weights.tensor`."""
        return self.tensors[name]
