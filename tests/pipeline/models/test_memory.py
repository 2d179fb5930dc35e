"""A model in memory is the one that was saved: the same tensors, architecture and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.memory import MemoryTensors, loaded_checkpoint

SMALL = {"vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def bridge_of(model: Any) -> Any:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


def same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.identity() == other.identity()
    assert one.places == other.places
    for name in other.tensor_names():
        np.testing.assert_array_equal(one.tensor(name), other.tensor(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_in_memory_is_the_saved_one(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=tied)
    model = LlamaForCausalLM(config).to(dtype)
    model.model.norm.weight.data = model.model.norm.weight.data.float()  # kinds of numbers are mixed in real files too
    same(loaded_checkpoint(model, tmp_path), Checkpoint.open(saved(model, tmp_path / "saved")))
    (file,) = (tmp_path / "saved").glob("*.safetensors")
    assert MemoryTensors.of(model, "it").identity() == hashlib.sha256(file.read_bytes()).hexdigest()


def test_one_changed_weight_changes_the_identity(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    before = MemoryTensors.of(model, "it").identity()
    model.model.layers[1].self_attn.q_proj.weight.data[3, 5] += 1e-3
    assert MemoryTensors.of(model, "it").identity() != before


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bridge_is_the_model_that_it_was_made_of(family: str, make_random_model: Callable[..., Path]) -> None:
    if family == "gpt2":
        folder = make_random_model(3)
    else:
        folder = saved(LlamaForCausalLM(LlamaConfig(**SMALL)), make_random_model(4) / "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    same(loaded_checkpoint(bridge_of(model), folder), Checkpoint.open(folder))


@pytest.mark.slow
def test_a_bridge_whose_weights_may_be_folded_is_refused(random_model: Path) -> None:
    bridge = bridge_of(AutoModelForCausalLM.from_pretrained(random_model))
    bridge.enable_compatibility_mode()
    with pytest.raises(ValueError, match="is in compatibility mode, which may have folded its weights"):
        loaded_checkpoint(bridge, random_model)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear is no model that can be read; give a name, a directory"):
        loaded_checkpoint(torch.nn.Linear(2, 2), Path("nowhere"))
    with torch.device("meta"):
        empty = LlamaForCausalLM(LlamaConfig(**SMALL))
    with pytest.raises(ValueError, match="as it is on the device meta; load its weights"):
        loaded_checkpoint(empty, Path("nowhere"))
