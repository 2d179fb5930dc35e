"""What the tests compare with: a GPT-2 head written out in NumPy float64, independently of the code under test.

Everything is made whole, V x V, from the raw tensors. Nothing of the package is imported here.

Shapes: R rows (queries), V tokens, D model, H head dimension; x is [..., D].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float64]
Tensors = Mapping[str, NDArray[np.generic]]


def tensors_of(folder: Path) -> dict[str, Array]:
    """A checkpoint's tensors in float64, by their names without `transformer.`."""
    return in_float64(load_file(folder / "model.safetensors"))


def in_float64(tensors: Tensors) -> dict[str, Array]:
    """The same of tensors in memory."""
    return {name.removeprefix("transformer."): tensor.astype(np.float64) for name, tensor in tensors.items()}


def normalised(x: NDArray[np.floating], eps: float = 1e-5) -> Array:
    """LayerNorm without weight and bias."""
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps))


def unit(x: NDArray[np.floating]) -> Array:
    """Centred and of length 1."""
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.linalg.norm(centred, axis=-1, keepdims=True))


def layer_norm(x: Array, weights: Mapping[str, Array], name: str, eps: float = 1e-5) -> Array:
    """A layer's LayerNorm, such as `h.0.ln_1`."""
    return normalised(x, eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu_new(x: Array) -> Array:
    """GPT-2's activation, GELU by tanh."""
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def mlp_states(weights: Mapping[str, Array], layer: int, eps: float = 1e-5) -> Array:
    """Token states `mlp` that enter a layer, [V, D]: the embedding through the MLP blocks below, and nothing else."""
    x_VD = weights["wte.weight"]
    for below in range(layer):
        mlp = f"h.{below}.mlp"
        inner = layer_norm(x_VD, weights, f"h.{below}.ln_2", eps) @ weights[f"{mlp}.c_fc.weight"]
        hidden = gelu_new(inner + weights[f"{mlp}.c_fc.bias"])
        x_VD = x_VD + hidden @ weights[f"{mlp}.c_proj.weight"] + weights[f"{mlp}.c_proj.bias"]
    return x_VD


def projections(weights: Mapping[str, Array], layer: int, head: int, d_head: int) -> tuple[Array, Array, Array, Array]:
    """W_Q [D, H], b_Q [H], W_K, b_K of a head, as they are stored."""
    columns = slice(head * d_head, (head + 1) * d_head)
    w_q, w_k, _ = np.split(weights[f"h.{layer}.attn.c_attn.weight"], 3, axis=1)
    b_q, b_k, _ = np.split(weights[f"h.{layer}.attn.c_attn.bias"], 3)
    return w_q[:, columns], b_q[columns], w_k[:, columns], b_k[columns]


def bilinear_factors(weights: Mapping[str, Array], layer: int, head: int, d_head: int) -> tuple[Array, Array]:
    """W'_Q and W'_K [D, H] of a head: its projections times the gain of the LayerNorm in front of them."""
    w_q, _, w_k, _ = projections(weights, layer, head, d_head)
    gain_D1 = weights[f"h.{layer}.ln_1.weight"][:, None]
    return gain_D1 * w_q, gain_D1 * w_k


def head_scores(
    weights: Mapping[str, Array],
    x: Array,
    layer: int,
    head: int,
    *,
    d_head: int,
    form: str = "attention",
    eps: float = 1e-5,
) -> Array:
    """Scores [R, R] of a head from the residual stream that enters its layer."""
    if form == "bilinear":
        w_q, w_k = bilinear_factors(weights, layer, head, d_head)
        return normalised(x, eps) @ w_q @ w_k.T @ normalised(x, eps).T
    w_q, b_q, w_k, b_k = projections(weights, layer, head, d_head)
    normed = layer_norm(x, weights, f"h.{layer}.ln_1", eps)
    return np.asarray((normed @ w_q + b_q) @ (normed @ w_k + b_k).T / np.sqrt(d_head))


def vocabulary_scores(folder: Path, layer: int, head: int, form: str = "attention") -> Array:
    """Scores [V, V] of a checkpoint's head on token states `mlp`."""
    config = json.loads((folder / "config.json").read_text())
    weights, eps = tensors_of(folder), config["layer_norm_epsilon"]
    d_head = config["n_embd"] // config["n_head"]
    return head_scores(weights, mlp_states(weights, layer, eps), layer, head, d_head=d_head, form=form, eps=eps)


def tree_dots(queries_RH: NDArray[np.float32], keys_VH: NDArray[np.float32]) -> Array:
    """Dot products [R, V] by the documented tree, written out: pad to a power of two, fold the upper half down."""
    width = 1
    while width < queries_RH.shape[1]:
        width *= 2
    terms = np.zeros((len(queries_RH), len(keys_VH), width))
    terms[:, :, : queries_RH.shape[1]] = queries_RH[:, None, :].astype(np.float64) * keys_VH[None, :, :]
    while width > 1:
        width //= 2
        terms = terms[:, :, :width] + terms[:, :, width:]
    return np.asarray(terms[:, :, 0])
