"""Dictionaries of features for tests: written as SAELens writes them, and encoded in NumPy by its own formulas."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from support.float64 import all_in_float64

Array = npt.NDArray[np.float64]

ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")


def random_tensors(architecture: str, d_in: int, d_sae: int, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors of a dictionary whose features fire at some positions and not at others."""
    rng = np.random.default_rng(seed)
    found = {
        "W_enc": rng.standard_normal((d_in, d_sae)) / np.sqrt(d_in),
        "W_dec": rng.standard_normal((d_sae, d_in)) / np.sqrt(d_in) * rng.uniform(0.5, 2, (d_sae, 1)),
        "b_dec": rng.standard_normal(d_in) * 0.1,
    }
    if architecture == "gated":
        found |= {"b_gate": rng.standard_normal(d_sae) * 0.1 - 0.2, "b_mag": rng.standard_normal(d_sae) * 0.1,
                  "r_mag": rng.standard_normal(d_sae) * 0.3}  # fmt: skip
    else:
        found["b_enc"] = rng.standard_normal(d_sae) * 0.1 - 0.2
    if architecture == "jumprelu":
        found["threshold"] = rng.uniform(0.05, 0.4, d_sae)
    return {name: tensor.astype(np.float32) for name, tensor in found.items()}


def new_config(architecture: str, hook: str, d_in: int, d_sae: int, **more: Any) -> dict[str, Any]:
    """cfg.json as SAELens 6 writes it."""
    return {
        "architecture": architecture, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        **({"k": 5, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
        "metadata": {"sae_lens_version": "6.5.1", "model_name": "tiny", "hook_name": hook, "hook_head_index": None,
                     "prepend_bos": True, "context_size": 128},
        **more,
    }  # fmt: skip


def old_config(architecture: str, hook: str, d_in: int, d_sae: int, **more: Any) -> dict[str, Any]:
    """cfg.json as SAELens wrote it before."""
    topk = architecture == "topk"
    return {
        "architecture": "standard" if topk else architecture, "d_in": d_in, "d_sae": d_sae, "dtype": "torch.float32",
        "activation_fn_str": "topk" if topk else "relu", "activation_fn_kwargs": {"k": 5} if topk else {},
        "normalize_activations": False, "model_name": "tiny", "hook_point": hook, "hook_point_layer": 0,
        "hook_point_head_index": None, "finetuning_scaling_factor": False, "context_size": 128,
        **more,
    }  # fmt: skip


def write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, npt.NDArray[Any]],
    sparsity: npt.NDArray[Any] | None = None,
) -> Path:
    """Write a SAELens directory; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}  # it writes memory as it lies
    save_file(contiguous, folder / "sae_weights.safetensors")
    if sparsity is not None:
        save_file({"sparsity": sparsity}, folder / "sparsity.safetensors")
    return folder


def encoded(config: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]], x_PX: Array) -> tuple[Array, Array]:
    """Activations and reconstructions in NumPy, float64."""
    w = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    kind, width = config["normalize_activations"], x_PX.shape[1]
    mean, back = np.zeros((len(x_PX), 1)), np.ones((len(x_PX), 1))
    if kind == "constant_norm_rescale":
        back = np.linalg.norm(x_PX, axis=1, keepdims=True) / np.sqrt(width)
        x_PX = x_PX / back
    elif kind == "layer_norm":
        mean = x_PX.mean(axis=1, keepdims=True)
        back = (x_PX - mean).std(axis=1, ddof=1, keepdims=True)
        x_PX = (x_PX - mean) / (back + 1e-5)
    u = x_PX - w["b_dec"] if config["apply_b_dec_to_input"] else x_PX
    if config["architecture"] == "gated":
        size = np.maximum(u @ (w["W_enc"] * np.exp(w["r_mag"])) + w["b_mag"], 0)
        active = (u @ w["W_enc"] + w["b_gate"] > 0) * size
        return active, (active @ w["W_dec"] + w["b_dec"]) * back + mean
    pre = u @ w["W_enc"] + w["b_enc"]
    decoder = w["W_dec"]
    if config.get("rescale_acts_by_decoder_norm"):
        norm = np.linalg.norm(w["W_dec"], axis=1)
        pre, decoder = pre * norm, decoder / norm[:, None]
    active = np.maximum(pre, 0)
    if config["architecture"] == "jumprelu":
        active = active * (pre > w["threshold"])
    if config["architecture"] == "topk":
        last = np.sort(pre, axis=1)[:, -config["k"]][:, None]
        active = active * (pre >= last)
    return active, (active @ decoder + w["b_dec"]) * back + mean


def mixed_values(model: Any, tokens_PT: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What reaches the output projection of every layer of a transformers model, float64 [P, T, X]; and its input."""
    heard: list[torch.Tensor] = []
    projections = [
        module for name, module in model.named_modules()
        if name.endswith(("attn.c_proj", "self_attn.o_proj", "attention.dense"))
    ]  # fmt: skip
    listen: Callable[..., None] = lambda module, given: heard.append(given[0].detach().clone())  # noqa: E731
    softmax = torch.nn.functional.softmax

    def in_float64(scores: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        return softmax(scores, *arguments, **{**named, "dtype": torch.float64})

    torch.nn.functional.softmax = in_float64  # transformers takes it in float32 whatever the model's precision
    handles = [module.register_forward_pre_hook(listen) for module in projections]
    try:
        with all_in_float64(), torch.no_grad():
            hidden = model(tokens_PT, output_hidden_states=True).hidden_states
    finally:
        torch.nn.functional.softmax = softmax
        for handle in handles:
            handle.remove()
    return heard, list(hidden)
