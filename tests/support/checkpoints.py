"""Editing checkpoints, and what transformers makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def edit_config(folder: Path, *, without: tuple[str, ...] = (), **changes: object) -> None:
    """Set some settings of config.json, and take others out."""
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    kept = {name: value for name, value in config.items() if name not in without}
    (folder / "config.json").write_text(json.dumps(kept))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of model.safetensors."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def rename_weights(folder: Path, rename: Callable[[str], str]) -> None:
    """Give the tensors of model.safetensors other names."""
    tensors = load_file(folder / "model.safetensors")
    save_file({rename(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


def reference(folder: Path) -> Any:
    """The model as transformers reads it, in float64 and with eager attention."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return model.eval()
