"""Parts of a transformer layer as they act on token states: its MLP, and its attention from a token to BOS and itself.

Shapes: D model, N heads of a layer, H head dimension, R rows of one block.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional

from qkatlas.pipeline.models.weights import Weights

Part = Callable[[torch.Tensor], torch.Tensor]
"""What a part adds to the residual stream, as a function of the stream: [R, D] -> [R, D]."""

_ACTIVATIONS: dict[str, Part] = {
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}


def mlp(weights: Weights, layer: int) -> Part:
    """A layer's x -> MLP(LN2(x))."""
    gain, shift, w_in, b_in, w_out, b_out = _tensors(
        weights,
        layer,
        *("ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
    )
    activation = _ACTIVATIONS[weights.architecture.activation]
    eps = weights.architecture.layer_norm_eps

    def add(x_RD: torch.Tensor) -> torch.Tensor:
        normed_RD = functional.layer_norm(x_RD, gain.shape, gain, shift, eps)
        return torch.addmm(b_out, activation(torch.addmm(b_in, normed_RD, w_in)), w_out)

    return add


def attention_after_bos(weights: Weights, layer: int, bos_1D: Float32[np.ndarray, "1 D"]) -> Part:
    """A layer's x -> Attention(LN1(x)) for tokens at position 1, whose only other key is BOS at position 0.

    Args:
        weights: the model.
        layer: the layer, from 0.
        bos_1D: float32 [1, D], what enters the layer at BOS.
    """
    architecture = weights.architecture
    gain, shift, w_qkv, b_qkv, w_out, b_out = _tensors(
        weights,
        layer,
        *("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias"),
        *("attn.c_proj.weight", "attn.c_proj.bias"),
    )
    eps, scale, n_heads = architecture.layer_norm_eps, architecture.score_scale(layer), architecture.n_heads

    def project(x_RD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        normed_RD = functional.layer_norm(x_RD, gain.shape, gain, shift, eps)
        qkv = torch.addmm(b_qkv, normed_RD, w_qkv).reshape(len(x_RD), 3, n_heads, -1)
        return qkv.unbind(dim=1)

    _, bos_key_1NH, bos_value_1NH = project(torch.from_numpy(bos_1D))

    def add(x_RD: torch.Tensor) -> torch.Tensor:
        query_RNH, key_RNH, value_RNH = project(x_RD)
        difference_RN1 = (query_RNH * (key_RNH - bos_key_1NH)).sum(dim=2, keepdim=True) * scale
        own_RN1 = torch.sigmoid(difference_RN1)  # the softmax over two keys
        mixed_RNH = bos_value_1NH + own_RN1 * (value_RNH - bos_value_1NH)
        return torch.addmm(b_out, mixed_RNH.reshape(len(x_RD), -1), w_out)

    return add


def attention_at_bos(weights: Weights, layer: int) -> Part:
    """A layer's x -> Attention(LN1(x)) for BOS at position 0, whose only key is itself."""
    d_model = weights.architecture.d_model
    gain, shift, w_qkv, b_qkv, w_out, b_out = _tensors(
        weights,
        layer,
        *("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias"),
        *("attn.c_proj.weight", "attn.c_proj.bias"),
    )
    eps = weights.architecture.layer_norm_eps

    def add(x_RD: torch.Tensor) -> torch.Tensor:
        normed_RD = functional.layer_norm(x_RD, gain.shape, gain, shift, eps)
        value_RD = torch.addmm(b_qkv[2 * d_model :], normed_RD, w_qkv[:, 2 * d_model :])
        return torch.addmm(b_out, value_RD, w_out)

    return add


def _tensors(weights: Weights, layer: int, *names: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(weights.tensor(f"h.{layer}.{name}")) for name in names)
