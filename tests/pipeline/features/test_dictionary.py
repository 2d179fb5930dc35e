"""Directories of SAELens: both generations say the same, and what is damaged or not computed is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.dictionaries import ARCHITECTURES, new_config, old_config, random_tensors, write

from qkatlas.pipeline.features.dictionary import Dictionary, open_dictionaries
from qkatlas.pipeline.features.kinds import RESIDUAL, Z

HOOK = "blocks.3.attn.hook_z"


def written(folder: Path, architecture: str = "standard", **more: Any) -> Path:
    return write(folder, new_config(architecture, HOOK, 8, 12, **more), random_tensors(architecture, 8, 12))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_generations_of_a_configuration_are_one_dictionary(architecture: str, tmp_path: Path) -> None:
    tensors = random_tensors(architecture, 8, 12)
    sparsity = np.linspace(-5, -1, 12).astype(np.float32)
    new = write(tmp_path / "new", new_config(architecture, HOOK, 8, 12), tensors, sparsity)
    scaled = {**tensors, "scaling_factor": np.ones(12, np.float32)}
    old = write(tmp_path / "old", old_config(architecture, HOOK, 8, 12), scaled, sparsity)
    first, second = Dictionary.open(new), Dictionary.open(old)
    assert first.config == second.config
    assert first.identity() == second.identity()
    assert (first.config.reads, first.config.layer, first.config.architecture) == (Z, 3, architecture)
    assert first.config.k == (5 if architecture == "topk" else None)
    assert first.config.subtracts
    density_F = first.trained_density()
    assert density_F is not None
    np.testing.assert_allclose(density_F, 10.0 ** sparsity.astype(np.float64))
    for name, tensor in second.tensors().items():
        np.testing.assert_array_equal(tensor, tensors[name])


def test_what_changes_numbers_changes_the_identity(tmp_path: Path) -> None:
    tensors = random_tensors("standard", 8, 12)
    config = new_config("standard", HOOK, 8, 12)
    found = [Dictionary.open(write(tmp_path / "0", config, tensors)).identity()]
    changes = ({"apply_b_dec_to_input": False}, {"normalize_activations": "layer_norm"},
               {"metadata": {"hook_name": "blocks.2.attn.hook_z"}})  # fmt: skip
    found += [
        Dictionary.open(write(tmp_path / f"{number}", {**config, **change}, tensors)).identity()
        for number, change in enumerate(changes, 1)
    ]
    nudged = {**tensors, "W_dec": np.nextafter(tensors["W_dec"], 9)}
    found.append(Dictionary.open(write(tmp_path / "nudged", config, nudged)).identity())
    assert len({json.dumps(one) for one in found}) == len(found)
    said = {**config, "device": "cuda", "dtype": "bfloat16", "context_size": 9}
    assert Dictionary.open(write(tmp_path / "said", said, tensors)).identity() == found[0]


@pytest.mark.parametrize(("hook", "place"), [
    ("blocks.3.attn.hook_z", (Z, 3)), ("blocks.3.hook_resid_pre", (RESIDUAL, 3)),
    ("blocks.3.hook_resid_post", (RESIDUAL, 4)),
])  # fmt: skip
def test_where_a_dictionary_stands(hook: str, place: tuple[str, int], tmp_path: Path) -> None:
    config = new_config("standard", hook, 8, 12)
    found = Dictionary.open(write(tmp_path, config, random_tensors("standard", 8, 12))).config
    assert (found.reads, found.layer) == place


def cut(folder: Path) -> None:
    file = folder / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def without(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "sae_weights.safetensors")
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, folder / "sae_weights.safetensors")

    return edit


def with_tensor(name: str, tensor: np.ndarray) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "sae_weights.safetensors")
        save_file({**tensors, name: tensor}, folder / "sae_weights.safetensors")

    return edit


def only_pickle(folder: Path) -> None:
    (folder / "sae_weights.safetensors").rename(folder / "sae_weights.pt")


def said(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps({**config, **changes}))

    return edit


NAN = np.full((8, 12), np.nan, np.float32)

REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (cut, "sae_weights.safetensors of .* cannot be read"),
    "missing tensor": (without("b_dec"), "has no tensor b_dec"),
    "wrong width": (said(d_in=9), r"tensor W_enc of .* has shape \[8, 12\], but cfg.json says \[9, 12\]"),
    "wrong features": (said(d_sae=13), r"says \[8, 13\]"),
    "unknown architecture": (said(architecture="transcoder"), "architecture 'transcoder', which is not read"),
    "batchtopk": (said(architecture="batchtopk"), "saved for use as jumprelu"),
    "unknown activation": (said(activation_fn="tanh-relu"), "activation_fn 'tanh-relu'"),
    "scaling": (with_tensor("scaling_factor", np.full(12, 2, np.float32)), "scaling_factor that is not 1"),
    "another tensor": (with_tensor("threshold", np.ones(12, np.float32)), "holds a tensor threshold"),
    "not finite": (with_tensor("W_enc", NAN), "W_enc of .* is not finite"),
    "integers": (with_tensor("b_enc", np.ones(12, np.int64)), "holds numbers of torch.int64"),
    "pickle": (only_pickle, "only pickled weights, which can run code"),
    "another hook": (said(metadata={"hook_name": "blocks.0.hook_mlp_out"}), "hook_name 'blocks.0.hook_mlp_out'"),
    "one head": (said(metadata={"hook_name": HOOK, "hook_head_index": 2}), "hook_head_index 2"),
    "normalisation": (said(normalize_activations="unit"), "normalize_activations 'unit'"),
    "no whole number": (said(d_in="eight"), "d_in is 'eight', not a whole number"),
    "no features": (said(d_sae=0), "d_sae 0, which is impossible"),
    "no object": (lambda folder: (folder / "cfg.json").write_text("[]") and None, "is not a JSON object"),
    "metadata": (said(metadata=[]), "metadata is no object"),
    "no flag": (said(apply_b_dec_to_input="yes"), "not true or false"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    edit, message = REFUSED[case]
    folder = written(tmp_path / "sae")
    edit(folder)
    with pytest.raises(ValueError, match=message) as refused:
        Dictionary.open(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "architecture"), [("threshold", "jumprelu"), ("r_mag", "gated")])
def test_every_architecture_asks_for_its_tensors(name: str, architecture: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "sae", architecture)
    without(name)(folder)
    with pytest.raises(ValueError, match=f"has no tensor {name}, which a {architecture}"):
        Dictionary.open(folder)


@pytest.mark.parametrize("k", [0, 13, None])
def test_a_topk_dictionary_asks_for_its_k(k: int | None, tmp_path: Path) -> None:
    folder = written(tmp_path / "sae", "topk", k=k)
    with pytest.raises(ValueError, match=r"k (0|13)|k is None"):
        Dictionary.open(folder)


def test_a_sparsity_of_another_dictionary_is_refused(tmp_path: Path) -> None:
    config, tensors = new_config("standard", HOOK, 8, 12), random_tensors("standard", 8, 12)
    with pytest.raises(ValueError, match="no tensor sparsity of 12 features"):
        Dictionary.open(write(tmp_path, config, tensors, np.zeros(11, np.float32)))


def test_a_directory_of_dictionaries(tmp_path: Path) -> None:
    tensors = random_tensors("standard", 8, 12)
    for number, hook in enumerate(("blocks.2.attn.hook_z", "blocks.0.hook_resid_pre", "blocks.0.attn.hook_z")):
        write(tmp_path / f"sae{number}", new_config("standard", hook, 8, 12), tensors)
    found = [(one.config.layer, one.config.reads) for one in open_dictionaries(tmp_path)]
    assert found == [(0, RESIDUAL), (0, Z), (2, Z)]
    write(tmp_path / "again", new_config("standard", "blocks.2.attn.hook_z", 8, 12), tensors)
    with pytest.raises(ValueError, match="both dictionaries of z at layer 2"):
        open_dictionaries(tmp_path)


def test_what_holds_no_dictionary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no cfg\.json, and neither has a folder in it"):
        open_dictionaries(tmp_path)
    with pytest.raises(ValueError, match="is no directory"):
        open_dictionaries(tmp_path / "nothing")
    (tmp_path / "sae.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="only pickled weights"):
        open_dictionaries(tmp_path)
