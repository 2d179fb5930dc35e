"""Checkpoints: read the same from every layout, and refused by name where they cannot be read exactly."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import edit_config, edit_weights

from qkatlas.pipeline.models.checkpoint import Checkpoint


@pytest.fixture
def copy(random_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model, tmp_path / "model"))


def test_architecture_and_tensors_are_those_of_the_files(random_model: Path) -> None:
    checkpoint = Checkpoint.open(random_model)
    assert checkpoint.architecture.family == "gpt2"
    assert (checkpoint.architecture.n_layers, checkpoint.architecture.n_heads) == (3, 8)
    assert checkpoint.architecture.d_head == 8
    assert checkpoint.architecture.score_scale(2) == 1 / np.sqrt(8)
    stored = load_file(random_model / "model.safetensors")
    np.testing.assert_array_equal(
        checkpoint.tensor("h.1.attn.c_attn.weight"), stored["transformer.h.1.attn.c_attn.weight"].numpy()
    )


def test_a_sharded_checkpoint_and_one_without_prefix_read_the_same(copy: Path, random_model: Path) -> None:
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(copy / "model.safetensors").items()}
    names = sorted(tensors)
    (copy / "model.safetensors").unlink()
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, copy / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded, single = Checkpoint.open(copy), Checkpoint.open(random_model)
    for name in names:
        np.testing.assert_array_equal(sharded.tensor(name), single.tensor(name))
    assert len(sharded.tensors.files) == 2


def test_the_identity_of_a_gpt2_is_what_it_always_was(random_model: Path) -> None:
    identity = Checkpoint.open(random_model).identity()
    digest = hashlib.sha256((random_model / "model.safetensors").read_bytes()).hexdigest()
    assert identity == {
        "architecture": {
            "n_layers": 3, "n_heads": 8, "d_model": 64, "d_mlp": 256, "vocab_size": 211, "n_ctx": 48,
            "layer_norm_eps": 1e-5, "activation": "gelu_new", "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False, "bos_token_id": 0, "tied": True,
        },
        "weights_sha256": digest,
    }  # fmt: skip


def test_half_precision_weights_become_float32(copy: Path) -> None:
    edit_weights(copy, lambda t: t.update({name: value.to(torch.bfloat16) for name, value in t.items()}))
    value = Checkpoint.open(copy).tensor("wte.weight")
    assert value.dtype == np.float32
    expected = load_file(copy / "model.safetensors")["transformer.wte.weight"].float().numpy()
    np.testing.assert_array_equal(value, expected)


def test_identity_follows_weights_and_settings_and_not_the_place(copy: Path, random_model: Path) -> None:
    original = Checkpoint.open(random_model).identity()
    edit_config(copy, _name_or_path="elsewhere")
    assert Checkpoint.open(copy).identity() == original
    edit_config(copy, layer_norm_epsilon=1e-6)
    assert Checkpoint.open(copy).identity() != original
    edit_config(copy, layer_norm_epsilon=1e-5)
    edit_weights(copy, lambda t: t["transformer.wpe.weight"][0, 0].add_(1))
    assert Checkpoint.open(copy).identity() != original


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(copy: Path, bad: float) -> None:
    edit_weights(copy, lambda t: t["transformer.h.2.mlp.c_fc.weight"][5, 7].fill_(bad))
    with pytest.raises(ValueError, match=r"h\.2\.mlp\.c_fc\.weight\[5, 7\] is -?(nan|inf)"):
        Checkpoint.open(copy).require_finite()


def test_large_finite_weights_are_not_refused(copy: Path) -> None:
    edit_weights(copy, lambda t: t["transformer.wpe.weight"][3, 3].fill_(3e38))
    Checkpoint.open(copy).require_finite()


def test_refusals_name_the_fault_and_the_remedy(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        Checkpoint.open(tmp_path / "none")

    edit_config(copy, model_type="mamba", architectures=["MambaForCausalLM"])
    with pytest.raises(ValueError, match=r"MambaForCausalLM.*not supported"):
        Checkpoint.open(copy)
    edit_config(copy, model_type="gpt2", activation_function="laplace")
    with pytest.raises(ValueError, match="laplace"):
        Checkpoint.open(copy)
    edit_config(copy, activation_function="gelu_new", n_head=5)
    with pytest.raises(ValueError, match="n_embd 64, n_head 5"):
        Checkpoint.open(copy)
    edit_config(copy, n_head=8, vocab_size=212)
    with pytest.raises(ValueError, match=r"wte\.weight.*\[211, 64\].*\[212, 64\]"):
        Checkpoint.open(copy)
    edit_config(copy, vocab_size=211, n_layer=4)
    with pytest.raises(ValueError, match=r"no tensor 'h\.3"):
        Checkpoint.open(copy)
    edit_config(copy, n_layer=3)

    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors of .* cannot be read"):
        Checkpoint.open(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        Checkpoint.open(copy)
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pickle weights"):
        Checkpoint.open(copy)
    (copy / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json .* is not a JSON object"):
        Checkpoint.open(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        Checkpoint.open(copy)
