"""A model's weights, wherever they are: on disk or in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from qkatlas.pipeline.models.checkpoint import Architecture, Checkpoint


@runtime_checkable
class Weights(Protocol):
    """What the mathematics asks of a model."""

    @property
    def architecture(self) -> Architecture:
        """The model's shape."""
        ...

    def tensor(self, name: str) -> np.ndarray:
        """A float32 tensor by its Hugging Face name without the `transformer.` prefix; not to be changed."""
        ...


@dataclass(frozen=True)
class ModelWeights:
    """A model in memory, as it is sent to workers.

    Attributes:
        key: hash of the weights.
        architecture: the model's shape.
        tensors: float32 arrays by Hugging Face name.
    """

    key: str
    architecture: Architecture
    tensors: Mapping[str, np.ndarray]

    @classmethod
    def read(cls, checkpoint: Checkpoint, key: str) -> ModelWeights:
        """Read all weights of a checkpoint.

        Args:
            checkpoint: the model.
            key: hash of its weights.
        """
        return cls(key, checkpoint.architecture, {name: checkpoint.tensor(name) for name in checkpoint.tensor_names()})

    def tensor(self, name: str) -> np.ndarray:
        """See `Weights.tensor`."""
        return self.tensors[name]
