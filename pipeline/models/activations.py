"""Activations of MLP blocks, by their Hugging Face names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional


def _tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_new": _tanh_gelu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}
"""A name -> the function; any other is refused by name."""
