"""A sparse autoencoder on disk: its configuration and tensors, read from a SAELens directory without SAELens.

Nothing but JSON and safetensors is read: pickles can run code.

Shapes: X width of what is encoded, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from qkatlas.pipeline.features.config import CONFIG_FILE, DictionaryConfig, read_config
from qkatlas.pipeline.features.kinds import GATED, JUMPRELU

WEIGHTS_FILE, SPARSITY_FILE = "sae_weights.safetensors", "sparsity.safetensors"

_SCALINGS = ("scaling_factor", "finetuning_scaling_factor")
"""Factors of activations that were trained afterwards; read only where they are all 1."""

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """An opened dictionary; of its tensors only names, shapes and a hash are held.

    Attributes:
        path: its directory.
        config: what it is.
        weights_sha256: hash of its tensors as float32, whatever file they came from.
        sparsity_sha256: hash of the training's densities; None where there are none.
    """

    path: Path
    config: DictionaryConfig
    weights_sha256: str
    sparsity_sha256: str | None

    @classmethod
    def open(cls, path: Path) -> Dictionary:
        """Open a SAELens directory and check every tensor of it.

        Args:
            path: a directory with cfg.json and sae_weights.safetensors.

        Raises:
            ValueError: if a file or a tensor is missing, damaged, of another shape than cfg.json says, not finite, or
                of a kind that is not computed; one line that names it.
        """
        config = read_config(path)
        tensors = _read_weights(path, config)
        sparsity = _read_sparsity(path, config)
        return cls(
            path=path,
            config=config,
            weights_sha256=_hashed(tensors),
            sparsity_sha256=None if sparsity is None else _hashed({"sparsity": sparsity}),
        )

    def tensors(self) -> Mapping[str, np.ndarray]:
        """All tensors as float32, read anew: W_enc [X, F], W_dec [F, X], b_dec [X], and what the architecture has."""
        return _read_weights(self.path, self.config)

    def trained_density(self) -> np.ndarray | None:
        """The share of positions at which each feature fired in training, float64 [F]; None where it is not stored."""
        found = _read_sparsity(self.path, self.config)
        return None if found is None else 10.0 ** found.astype(np.float64)

    def identity(self) -> dict[str, Any]:
        """What of it changes results: the same for every way that one dictionary can be written down."""
        return {
            **self.config.identity(),
            "weights_sha256": self.weights_sha256,
            **({"sparsity_sha256": self.sparsity_sha256} if self.sparsity_sha256 else {}),
        }


def open_dictionaries(path: Path) -> list[Dictionary]:
    """Open a dictionary, or all that lie in the folders of a directory, in order of their layers.

    Args:
        path: a SAELens directory, or one that holds such directories.

    Raises:
        ValueError: if there is none, one is damaged or not computed, or two are of one place of the model.
    """
    return [Dictionary.open(folder) for folder in read_configs(path)]


def read_configs(path: Path) -> dict[Path, DictionaryConfig]:
    """Read the configurations of a dictionary, or of all in the folders of a directory, and nothing of their weights.

    Args:
        path: a SAELens directory, or one that holds such directories.

    Returns:
        By their folders, in order of their layers.

    Raises:
        ValueError: if there is none, one is malformed or not computed, or two are of one place of the model.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no directory; give a SAELens directory, with {CONFIG_FILE} and {WEIGHTS_FILE}")
    if (path / CONFIG_FILE).exists():
        return {path: read_config(path)}
    inside = sorted(file.parent for file in path.glob(f"*/{CONFIG_FILE}"))
    if not inside:
        _refuse_pickles(path)
        raise ValueError(
            f"{path} has no {CONFIG_FILE}, and neither has a folder in it; give a SAELens directory, or one of several"
        )
    found: dict[tuple[int, str], tuple[Path, DictionaryConfig]] = {}
    for folder in inside:
        config = read_config(folder)
        place = config.layer, config.reads
        if place in found:
            raise ValueError(
                f"{found[place][0]} and {folder} are both dictionaries of {place[1]} at layer {place[0]}; give one "
                "of them"
            )
        found[place] = folder, config
    return dict(found[place] for place in sorted(found))


def shapes(config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a dictionary is made of, by their names."""
    x, f = config.d_in, config.d_sae
    found: dict[str, tuple[int, ...]] = {"W_enc": (x, f), "W_dec": (f, x), "b_dec": (x,)}
    if config.architecture == GATED:
        return found | {"b_gate": (f,), "b_mag": (f,), "r_mag": (f,)}
    found["b_enc"] = (f,)
    return found | ({"threshold": (f,)} if config.architecture == JUMPRELU else {})


def _read_weights(path: Path, config: DictionaryConfig) -> dict[str, np.ndarray]:
    stored = _read_file(path, WEIGHTS_FILE)
    wanted = shapes(config)
    for name in _SCALINGS:
        factor = stored.pop(name, None)
        if factor is not None and not np.array_equal(factor, np.ones_like(factor)):
            raise ValueError(
                f"{WEIGHTS_FILE} of {path} holds a {name} that is not 1 everywhere, which is not computed; fold it "
                "into W_dec, and save the dictionary again"
            )
    for name, shape in wanted.items():
        if name not in stored:
            raise ValueError(
                f"{WEIGHTS_FILE} of {path} has no tensor {name}, which a {config.architecture} dictionary is made of; "
                "copy it again"
            )
        if stored[name].shape != shape:
            raise ValueError(
                f"tensor {name} of {path} has shape {list(stored[name].shape)}, but {CONFIG_FILE} says {list(shape)}; "
                "they belong to different dictionaries"
            )
        if not np.isfinite(stored[name]).all():
            raise ValueError(f"tensor {name} of {path} holds a number that is not finite; repair it first")
    if more := sorted(stored.keys() - wanted.keys()):
        raise ValueError(
            f"{WEIGHTS_FILE} of {path} holds a tensor {more[0]}, which a {config.architecture} dictionary does not "
            "have; it would count for nothing"
        )
    return {name: stored[name] for name in wanted}


def _read_sparsity(path: Path, config: DictionaryConfig) -> np.ndarray | None:
    if not (path / SPARSITY_FILE).exists():
        return None
    stored = _read_file(path, SPARSITY_FILE)
    found = stored.get("sparsity")
    if found is None or found.shape != (config.d_sae,):
        raise ValueError(
            f"{SPARSITY_FILE} of {path} holds no tensor sparsity of {config.d_sae} features; copy it again, or remove "
            "it"
        )
    return found


def _read_file(path: Path, name: str) -> dict[str, np.ndarray]:
    file = path / name
    if not file.is_file():
        _refuse_pickles(path)
        raise ValueError(f"{path} has no {name}; give a SAELens directory")
    try:
        with safe_open(file, framework="pt") as opened:
            stored = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - it has no iterator
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{name} of {path} cannot be read: {error}; copy it again") from error
    for key, tensor in stored.items():
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"tensor {key} of {path} holds numbers of {tensor.dtype}; save it as float32")
    return {key: tensor.to(torch.float32).contiguous().numpy() for key, tensor in stored.items()}


def _refuse_pickles(path: Path) -> None:
    if any(file.suffix in (".pt", ".pth", ".pkl", ".bin") for file in path.iterdir()):
        raise ValueError(
            f"{path} has only pickled weights, which can run code and are not read; save it as {WEIGHTS_FILE}"
        )


def _hashed(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape} ".encode())
        digest.update(np.ascontiguousarray(tensors[name], "<f4").data)
    return digest.hexdigest()
