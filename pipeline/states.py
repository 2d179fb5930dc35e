"""Token states: the residual stream that enters a layer's attention, for each vocabulary token on its own.

Every product here is taken over fixed blocks of rows, each on one thread. The bits of a state therefore depend on
the weights and the processor's arithmetic, and not on how many threads or workers a run was given.

Shapes: V vocabulary, D model, H head dimension, R rows of one block.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional

from pipeline.blocks import for_blocks
from pipeline.checkpoint import Checkpoint

STATES = ("mlp",)
"""Ways to take token states (`--states`)."""

_Block = Callable[[torch.Tensor], torch.Tensor]

_ACTIVATIONS: dict[str, _Block] = {
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}


def mlp_states(checkpoint: Checkpoint, layer: int, *, threads: int) -> Float32[np.ndarray, "V D"]:
    """Token states `mlp`: only the MLP blocks below the layer run; no position, no attention.

    X_0 = W_E and X_{l+1} = X_l + MLP_l(LN2_l(X_l)), so that X_1 is the post's E = W_E + MLP_0(LN(W_E)).

    Args:
        checkpoint: the model.
        layer: layer whose attention reads the states, from 0.
        threads: threads to use; the result does not depend on it.

    Returns:
        float32 [V, D].

    Source:
        "The Self-Hating Attention Head" (2025), part 1, generalised to any layer.
    """
    states_VD = checkpoint.tensor("wte.weight")
    for below in range(layer):
        add_mlp(checkpoint, states_VD, below, threads=threads)
    return states_VD


def add_mlp(checkpoint: Checkpoint, states_VD: Float32[np.ndarray, "V D"], layer: int, *, threads: int) -> None:
    """Take token states `mlp` of one layer to those of the next, in place: X_l += MLP_l(LN2_l(X_l)).

    Args:
        checkpoint: the model.
        states_VD: float32 [V, D], the states that enter the layer; changed.
        layer: the layer, from 0.
        threads: threads to use; the result does not depend on it.
    """
    mlp = _mlp_block(checkpoint, layer)

    def add_output(rows: slice) -> None:
        x_RD = torch.from_numpy(states_VD[rows])
        x_RD += mlp(x_RD)

    for_blocks(len(states_VD), add_output, threads)


def _mlp_block(checkpoint: Checkpoint, layer: int) -> _Block:
    """One layer's x -> MLP(LN2(x)) on [rows, D]."""
    gain, shift, w_in, b_in, w_out, b_out = (
        torch.from_numpy(checkpoint.tensor(f"h.{layer}.{name}"))
        for name in (
            "ln_2.weight",
            "ln_2.bias",
            "mlp.c_fc.weight",
            "mlp.c_fc.bias",
            "mlp.c_proj.weight",
            "mlp.c_proj.bias",
        )
    )
    activation = _ACTIVATIONS[checkpoint.architecture.activation]
    eps = checkpoint.architecture.layer_norm_eps

    def mlp(x_RD: torch.Tensor) -> torch.Tensor:
        normed_RD = functional.layer_norm(x_RD, gain.shape, gain, shift, eps)
        return torch.addmm(b_out, activation(torch.addmm(b_in, normed_RD, w_in)), w_out)

    return mlp


def normalise(states_VD: Float32[np.ndarray, "V D"], eps: float, *, threads: int) -> Float32[np.ndarray, "V D"]:
    """Normalised states N_l: LayerNorm without its weight and bias, taken in float64 and rounded once.

    Args:
        states_VD: float32 [V, D], the states that enter a layer.
        eps: the model's LayerNorm epsilon.
        threads: threads to use; the result does not depend on it.

    Returns:
        float32 [V, D], each row centred and divided by sqrt(variance + eps).
    """
    normalised_VD = np.empty_like(states_VD)

    def normalise_rows(rows: slice) -> None:
        x_RD = torch.from_numpy(states_VD[rows].astype(np.float64))
        normalised_VD[rows] = functional.layer_norm(x_RD, x_RD.shape[1:], eps=eps)

    for_blocks(len(states_VD), normalise_rows, threads)
    return normalised_VD
