"""Tiny checkpoints of random weights of every family, as transformers makes and saves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 900.0, "factor": 4.0, "original_max_position_embeddings": 16}
WINDOWS = {"sliding_window": 7}

VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-groups-of-3": ("llama", {"num_key_value_heads": 2}),
    "llama-one-key-head-of-8": ("llama", {"num_attention_heads": 8, "num_key_value_heads": 1}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 3}),
    "llama-wide-heads": ("llama", {"head_dim": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 99.0, "factor": 3.0}}),
    "llama-dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 99.0, "factor": 3.0}}),
    "llama-3": ("llama", {"rope_parameters": LLAMA3, "num_key_value_heads": 2}),
    "llama-yarn": ("llama", {"rope_parameters": YARN}),
    "llama-yarn-mscale": ("llama", {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}}),
    "llama-yarn-exact": ("llama", {"rope_parameters": {**YARN, "truncate": False, "attention_factor": 1.3}}),
    "llama-odd": ("llama", {
        "vocab_size": 89, "hidden_size": 35, "intermediate_size": 51, "num_attention_heads": 5,
        "num_key_value_heads": 5, "head_dim": 6, "num_hidden_layers": 2, "hidden_act": "gelu",
    }),
    "mistral": ("mistral", {"num_key_value_heads": 2, **WINDOWS}),
    "mistral-no-window": ("mistral", {"num_key_value_heads": 2, "sliding_window": None}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "qwen2-windows": ("qwen2", {
        "num_key_value_heads": 2, "use_sliding_window": True, "max_window_layers": 1, **WINDOWS,
    }),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 10}),
    "qwen3-biases": ("qwen3", {"num_key_value_heads": 6, "head_dim": 8, "attention_bias": True}),
    "gemma": ("gemma", {"num_key_value_heads": 1, "head_dim": 10}),
    "gemma-2": ("gemma2", {
        "num_key_value_heads": 2, "head_dim": 10, "query_pre_attn_scalar": 23, "attn_logit_softcapping": 3.0, **WINDOWS,
    }),
    "gemma-2-no-cap": ("gemma2", {
        "num_key_value_heads": 2, "head_dim": 10, "query_pre_attn_scalar": 23, "attn_logit_softcapping": None,
        "layer_types": ["full_attention", "full_attention", "sliding_attention"], **WINDOWS,
    }),
    "gemma-3": ("gemma3_text", {
        "num_key_value_heads": 2, "head_dim": 10, "query_pre_attn_scalar": 23, "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"], **WINDOWS,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 400.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 60.0},
        },
    }),
    "neox": ("gpt_neox", {}),
    "neox-sequential": ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 1.0}),
    "neox-no-bias": ("gpt_neox", {"attention_bias": False, "rotary_pct": 0.5, "tie_word_embeddings": True}),
    "neox-odd": ("gpt_neox", {"hidden_size": 60, "num_attention_heads": 5, "rotary_pct": 0.25, "vocab_size": 91}),
}  # fmt: skip
"""A name -> model_type and what its configuration has beside SMALL."""

QUICK = ("llama-groups-of-3", "llama-yarn", "qwen3-biases", "gemma-2", "gemma-3", "neox")
EVERY = [pytest.param(variant, marks=[pytest.mark.slow] * (variant not in QUICK)) for variant in VARIANTS]
"""All of them for a test's parameters; the fast lane takes one of each kind."""


def make(variant: str, folder: Path, *, std: float = 0.15, **more: Any) -> Path:
    """Write a checkpoint of random weights, norms and biases; returns its folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, changes = VARIANTS[variant]
    config = AutoConfig.for_model(model_type, **{**SMALL, **changes, **more})
    torch.manual_seed(sum(map(ord, variant)))
    model = AutoModelForCausalLM.from_config(config)
    plus_one = model_type.startswith("gemma")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = "norm" in name and name.endswith("weight")
            noise = torch.randn_like(parameter) * (0.4 if is_gain else std)
            parameter.copy_(noise + (1.0 if is_gain and not plus_one else 0.0))
    model.save_pretrained(folder)
    return folder


def raw_scores(model: Any, tokens_PT: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pre-softmax scores [P, N, T, T] of every layer, and what enters each, from transformers' own eager attention.

    The softmax of its module is listened to: what reaches it are the masked scores.
    """
    heard: list[torch.Tensor] = []
    softmax = torch.nn.functional.softmax

    def listen(scores: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        heard.append(scores.detach().clone())
        return softmax(scores, *arguments, **named)

    torch.nn.functional.softmax = listen
    try:
        with torch.no_grad():
            hidden = model(tokens_PT, output_hidden_states=True).hidden_states
    finally:
        torch.nn.functional.softmax = softmax
    return heard, list(hidden)
