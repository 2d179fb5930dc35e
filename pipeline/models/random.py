"""The same model with the numbers of each matrix in another order: a null that has learned nothing."""

from __future__ import annotations

import hashlib

from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.text import streams


def shuffled(weights: ModelWeights, seed: int) -> ModelWeights:
    """Shuffle the entries of every matrix; gains and biases stay.

    Every matrix keeps its mean and its spread, so that activations stay in the range the model works in.

    Args:
        weights: the model.
        seed: of the orders.
    """
    tensors = {}
    for number, (name, tensor) in enumerate(sorted(weights.tensors.items())):
        if tensor.ndim < 2:
            tensors[name] = tensor
            continue
        rng = streams.RANDOM_WEIGHTS.generator(seed, number)
        tensors[name] = rng.permutation(tensor.reshape(-1)).reshape(tensor.shape)
    key = hashlib.sha256(f"{weights.key} shuffled by {seed}".encode()).hexdigest()
    return ModelWeights(key, weights.architecture, tensors)
