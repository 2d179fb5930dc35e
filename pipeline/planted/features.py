"""Dictionaries of features for a planted checkpoint, whose owners are known.

They are no part of the planted design, whose checkpoints stay what they are. Each layer has a dictionary of z: features
of one head each, whose directions are orthonormal; one head whose features are all nearly one direction, which is the
layer's monosemantic head; and features of two heads each, whose decoders have norms 3 and 4 there. The target's layer
has a dictionary of the residual stream too, with a feature for the code of each category: what the target head attends
by.

Shapes: X = N H width of z, N heads, H head dimension, F features, D model, V vocabulary, C categories, J neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkatlas.pipeline.features.config import DictionaryConfig
from qkatlas.pipeline.features.kinds import JUMPRELU, RESIDUAL, TOPK, Z
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.checkpoint import Float32, PlantedCheckpoint, PlantedDesign
from qkatlas.pipeline.planted.codes import Array
from qkatlas.pipeline.text import streams

OWN = 24
"""Features of a head of its own, or as many as it is wide."""

ALIKE = 12
"""Features of the monosemantic head."""

SPREAD = 0.3
"""Length of what tells its features apart, beside the direction that they have in common."""

BOTH = (3.0, 4.0)
"""Norms of a feature of two heads."""

THRESHOLD = 0.6
"""Of a category's feature, as a share of its code's length."""


@dataclass(frozen=True, kw_only=True)
class PlantedDictionary:
    """What a SAELens directory holds, and its truth.

    Attributes:
        name: of its folder.
        config: cfg.json.
        tensors: sae_weights.safetensors.
        truth: whose its features are.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Float32]
    truth: Mapping[str, Any]


def plant_dictionaries(planted: PlantedCheckpoint) -> list[PlantedDictionary]:
    """Dictionaries for a planted checkpoint: of z in every layer, and of what enters the target's layer.

    Args:
        planted: the checkpoint.
    """
    layers = range(planted.truth["shape"]["n_layer"])
    return [*(_of_heads(planted, layer) for layer in layers), _of_categories(planted)]


def planned(design: PlantedDesign) -> list[DictionaryConfig]:
    """What the dictionaries of a planted checkpoint will be, without planting it."""
    shape = design.shape
    width = shape.d_model // shape.n_head
    count = (shape.n_head - 1) * (min(OWN, width) + 1) + ALIKE
    found = [
        DictionaryConfig(
            architecture=TOPK, reads=Z, layer=layer, d_in=shape.d_model, d_sae=count, k=2 * shape.n_head,
            by_decoder_norm=True,
        )
        for layer in range(shape.n_layer)
    ]  # fmt: skip
    of_categories = DictionaryConfig(
        architecture=JUMPRELU, reads=RESIDUAL, layer=design.target[0], d_in=shape.d_model, d_sae=shape.n_categories
    )
    return sorted([*found, of_categories], key=lambda config: (config.layer, config.reads))


def monosemantic_head(planted: PlantedCheckpoint, layer: int) -> Head:
    """The head of a layer whose features are all alike."""
    return Head(layer, (5 * layer + 3) % planted.truth["shape"]["n_head"])


def _of_heads(planted: PlantedCheckpoint, layer: int) -> PlantedDictionary:
    shape = planted.truth["shape"]
    n_heads, width = shape["n_head"], shape["d_head"]
    rng = streams.PLANTED_FEATURES.generator(planted.truth["design"]["seed"], layer)
    alike = monosemantic_head(planted, layer).index
    rows, owners = [], []
    for head in range(n_heads):
        own = _alike(width, rng) if head == alike else _orthonormal(width, rng)
        rows += [_placed({head: row}, n_heads, width) for row in own]
        owners += [[head]] * len(own)
    others = [head for head in range(n_heads) if head != alike]
    for first, second in zip(others, [*others[1:], others[0]], strict=True):
        of_both = {head: norm * _unit(width, rng) for head, norm in zip((first, second), BOTH, strict=True)}
        rows.append(_placed(of_both, n_heads, width))
        owners.append([first, second])
    order = rng.permutation(len(rows))
    w_dec_FX = np.stack(rows)[order]
    norm_F1 = np.linalg.norm(w_dec_FX, axis=1, keepdims=True)
    tensors = {
        "W_enc": (w_dec_FX / norm_F1**2).T, "W_dec": w_dec_FX, "b_enc": np.zeros(len(rows)),
        "b_dec": np.zeros(n_heads * width),
    }  # fmt: skip
    hook = f"blocks.{layer}.attn.hook_z"
    config = {
        "architecture": "topk", "d_in": n_heads * width, "d_sae": len(rows), "k": 2 * n_heads, "dtype": "float32",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "hook_z",
        "rescale_acts_by_decoder_norm": True,
        "metadata": {"model_name": "planted", "hook_name": hook, "hook_head_index": None},
    }  # fmt: skip
    truth = {
        "owners": [owners[number] for number in order],
        "norms": list(BOTH),
        "monosemantic": str(monosemantic_head(planted, layer)),
    }
    return PlantedDictionary(name=hook, config=config, tensors=_float32(tensors), truth=truth)


def _of_categories(planted: PlantedCheckpoint) -> PlantedDictionary:
    code_CD = _codes(planted)
    length_C = np.linalg.norm(code_CD, axis=1)
    unit_CD = code_CD / length_C[:, None]
    tensors = {
        "W_enc": unit_CD.T, "W_dec": unit_CD, "b_enc": np.zeros(len(code_CD)), "b_dec": np.zeros(code_CD.shape[1]),
        "threshold": THRESHOLD * length_C,
    }  # fmt: skip
    target = Head.parse(planted.truth["target"])
    hook = f"blocks.{target.layer}.hook_resid_pre"
    config = {  # of the older generation
        "architecture": "jumprelu", "d_in": code_CD.shape[1], "d_sae": len(code_CD), "dtype": "torch.float32",
        "activation_fn_str": "relu", "activation_fn_kwargs": {}, "apply_b_dec_to_input": True,
        "normalize_activations": "none", "finetuning_scaling_factor": False, "model_name": "planted",
        "hook_point": hook, "hook_point_layer": target.layer, "hook_point_head_index": None,
    }  # fmt: skip
    truth = {"head": str(target), "categories": [category["name"] for category in planted.truth["categories"]]}
    return PlantedDictionary(name=hook, config=config, tensors=_float32(tensors), truth=truth)


def _codes(planted: PlantedCheckpoint) -> Array:
    """The code of each category, float64 [C, D]: what the neuron writes that its tokens drive, at their strength."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in planted.tensors.items() if ".h.0." in name}
    block = "transformer.h.0"
    embedding_VD = planted.tensors["transformer.wte.weight"].astype(np.float64)
    words = [
        [token for word in category["words"] for token in word["token_ids"]] for category in planted.truth["categories"]
    ]
    state_CD = np.stack([embedding_VD[token_ids[0]] for token_ids in words])
    centred_CD = state_CD - state_CD.mean(axis=1, keepdims=True)
    normed_CD = centred_CD / np.sqrt(np.square(centred_CD).mean(axis=1, keepdims=True) + 1e-5)
    normed_CD = normed_CD * tensors[f"{block}.ln_2.weight"] + tensors[f"{block}.ln_2.bias"]
    drive_CJ = np.maximum(normed_CD @ tensors[f"{block}.mlp.c_fc.weight"] + tensors[f"{block}.mlp.c_fc.bias"], 0)
    written_JD = tensors[f"{block}.mlp.c_proj.weight"]
    planted_J = np.argsort(-np.linalg.norm(written_JD, axis=1), kind="stable")[: len(words)]
    neuron_C = planted_J[drive_CJ[:, planted_J].argmax(axis=1)]
    assert len(set(neuron_C)) == len(neuron_C), "each category has a neuron of its own"
    code_CD: Array = written_JD[neuron_C] * drive_CJ[np.arange(len(neuron_C)), neuron_C][:, None]
    return code_CD


def _orthonormal(width: int, rng: np.random.Generator) -> Array:
    basis_HH = np.linalg.qr(rng.standard_normal((width, width)))[0]
    return np.ascontiguousarray(basis_HH[:, : min(OWN, width)].T)


def _alike(width: int, rng: np.random.Generator) -> Array:
    common_H = _unit(width, rng)
    rows = [common_H + SPREAD * _unit(width, rng) for _ in range(ALIKE)]
    return np.stack([row / np.linalg.norm(row) for row in rows])


def _unit(width: int, rng: np.random.Generator) -> Array:
    drawn_H = rng.standard_normal(width)
    found: Array = drawn_H / np.linalg.norm(drawn_H)
    return found


def _placed(parts: Mapping[int, Array], n_heads: int, width: int) -> Array:
    row_NH = np.zeros((n_heads, width))
    for head, part_H in parts.items():
        row_NH[head] = part_H
    return row_NH.reshape(-1)


def _float32(tensors: Mapping[str, Array]) -> dict[str, Float32]:
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
