"""A Hugging Face checkpoint on disk: its shape, its weights as float32 arrays, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "swish", "tanh")
"""Values of `activation_function` that the MLP blocks are computed for; any other is refused by name."""

_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What of a GPT-2 configuration changes the numbers."""

    n_layers: int
    n_heads: int
    d_model: int
    d_mlp: int
    vocab_size: int
    n_ctx: int
    layer_norm_eps: float
    activation: str
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    bos_token_id: int | None
    tied: bool = True
    """Whether the unembedding is the embedding; else it is `lm_head.weight`."""

    @property
    def d_head(self) -> int:
        """Width of one head's queries and keys, H."""
        return self.d_model // self.n_heads

    def require_bos(self) -> int:
        """The token that begins every prompt.

        Raises:
            ValueError: if the model has none.
        """
        if self.bos_token_id is None:
            raise ValueError(
                f"the model's {self.vocab_size} tokens have no BOS, which every prompt begins with; "
                "set bos_token_id in its config.json"
            )
        return self.bos_token_id

    def score_scale(self, layer: int) -> float:
        """Factor between the dot product q.k and the pre-softmax attention score of a layer, usually 1/sqrt(H)."""
        scale = 1.0 / math.sqrt(self.d_head) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str) -> Architecture:
        """Read config.json of a GPT-2 checkpoint.

        Args:
            config: the parsed file.
            source: the checkpoint's name, for messages.

        Returns:
            The architecture.

        Raises:
            ValueError: for any architecture, activation or shape that is not computed exactly here.
        """
        model_type = config.get("model_type")
        if config.get("quantization_config"):
            raise ValueError(f"{source} is quantised, which is not read; use its float checkpoint")
        if model_type != "gpt2" or config.get("add_cross_attention"):
            named = config.get("architectures") or model_type
            named = named[0] if isinstance(named, list) else named
            raise ValueError(
                f"architecture {named!r} (model_type {model_type!r}) of {source} is not supported; "
                "use a GPT-2 checkpoint (model_type 'gpt2')"
            )
        try:
            d_model, n_heads = _integer(config, "n_embd"), _integer(config, "n_head")
            architecture = cls(
                n_layers=_integer(config, "n_layer"),
                n_heads=n_heads,
                d_model=d_model,
                d_mlp=_integer(config, "n_inner", 4 * d_model),
                vocab_size=_integer(config, "vocab_size"),
                n_ctx=_integer(config, "n_positions", 1024),
                layer_norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
                activation=str(config.get("activation_function", "gelu_new")),
                scale_attn_weights=bool(config.get("scale_attn_weights", True)),
                scale_attn_by_inverse_layer_idx=bool(config.get("scale_attn_by_inverse_layer_idx", False)),
                bos_token_id=_bos_token_id(config),
                tied=bool(config.get("tie_word_embeddings", True)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"config.json of {source} is not a GPT-2 configuration: {error}") from error
        if not (math.isfinite(architecture.layer_norm_eps) and architecture.layer_norm_eps >= 0):
            raise ValueError(f"layer_norm_epsilon {architecture.layer_norm_eps} of {source} is impossible; use 1e-5")
        if min(architecture.n_layers, n_heads, d_model, architecture.vocab_size) < 1 or d_model % n_heads:
            raise ValueError(f"config.json of {source} has impossible sizes: n_embd {d_model}, n_head {n_heads}")
        if architecture.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation_function {architecture.activation!r} of {source} is not supported; "
                f"supported are {', '.join(ACTIVATIONS)}"
            )
        return architecture


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: its file, its name in that file, its shape and its kind of number."""

    file: str
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: where it is, what it is, and where each tensor lies."""

    path: Path
    architecture: Architecture
    files: tuple[str, ...]
    stored: Mapping[str, StoredTensor]
    """Hugging Face name without the `transformer.` prefix -> where the tensor lies."""

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open a local Hugging Face GPT-2 directory with safetensors weights.

        Args:
            path: directory with config.json and model.safetensors (or its sharded form).

        Returns:
            The checkpoint; no weight has been read yet.

        Raises:
            ValueError: if a file is missing, unreadable, or the architecture is not supported.
        """
        if not path.is_dir():
            raise ValueError(f"model directory {str(path)!r} does not exist; give a directory with config.json")
        config = _read_json(path / "config.json", path)
        architecture = Architecture.from_config(config, str(path))
        files = _weight_files(path)
        stored: dict[str, StoredTensor] = {}
        for file in files:
            try:
                with safe_open(path / file, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118 - safe_open has no iterator of its own
                        entry = tensors.get_slice(name)
                        place = StoredTensor(file, name, tuple(entry.get_shape()), entry.get_dtype())
                        stored[name.removeprefix("transformer.")] = place
            except (SafetensorError, OSError) as error:
                if not os.access(path / file, os.R_OK):
                    raise ValueError(f"weights file {file} of {path} may not be read by this user") from error
                raise ValueError(f"weights file {file} of {path} cannot be read: {error}; copy it again") from error
        checkpoint = cls(path, architecture, tuple(files), stored)
        checkpoint._require_shapes()
        return checkpoint

    def tensor(self, name: str) -> np.ndarray:
        """Read one tensor as float32.

        Args:
            name: Hugging Face name without the `transformer.` prefix, for example `h.0.attn.c_attn.weight`.

        Returns:
            A C-contiguous float32 array of the stored shape (GPT-2's Conv1D weights are [in, out]).
        """
        place = self.stored[name]
        with safe_open(self.path / place.file, framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(place.name)
        return tensor.to(torch.float32).contiguous().numpy()

    def require_finite(self) -> None:
        """Check that no weight is NaN or infinite.

        Raises:
            ValueError: naming the first bad tensor (by name) and the place of its first bad value.
        """

        def first_bad(name: str) -> str | None:
            values = self.tensor(name)
            # A float32 sum of squares may overflow for finite weights, so the values themselves are tested.
            finite = np.isfinite(values)
            if finite.all():
                return None
            place = np.unravel_index(int(np.argmin(finite)), values.shape)
            return f"{name}[{', '.join(map(str, place))}] is {values[place]}"

        with ThreadPoolExecutor(2) as pool:
            for bad in pool.map(first_bad, sorted(self._model_tensors())):
                if bad is not None:
                    raise ValueError(f"checkpoint {self.path} has a weight that is not finite: {bad}; repair it first")

    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of each weights file, as `sha256sum` and the Hugging Face hub print it."""
        with ThreadPoolExecutor(2) as pool:
            digests = pool.map(lambda file: _file_sha256(self.path / file), self.files)
            return dict(zip(self.files, digests, strict=True))

    def identity(self) -> dict[str, Any]:
        """What of the model changes results: its architecture and its weights' hash."""
        hashes = self.file_hashes()
        if len(hashes) == 1:
            weights = next(iter(hashes.values()))
        else:
            listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
            weights = hashlib.sha256(listing.encode()).hexdigest()
        return {"architecture": asdict(self.architecture), "weights_sha256": weights}

    def tensor_names(self) -> list[str]:
        """Names of all tensors that the model is made of."""
        return list(self._model_tensors())

    def _model_tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor the model is made of, and its shape."""
        a = self.architecture
        shapes: dict[str, tuple[int, ...]] = {
            "wte.weight": (a.vocab_size, a.d_model),
            "wpe.weight": (a.n_ctx, a.d_model),
            "ln_f.weight": (a.d_model,),
            "ln_f.bias": (a.d_model,),
        }
        if not a.tied:
            shapes["lm_head.weight"] = (a.vocab_size, a.d_model)
        for layer in range(a.n_layers):
            for norm in ("ln_1", "ln_2"):
                shapes[f"h.{layer}.{norm}.weight"] = shapes[f"h.{layer}.{norm}.bias"] = (a.d_model,)
            for block, inside, outside in (
                ("attn.c_attn", a.d_model, 3 * a.d_model),
                ("attn.c_proj", a.d_model, a.d_model),
                ("mlp.c_fc", a.d_model, a.d_mlp),
                ("mlp.c_proj", a.d_mlp, a.d_model),
            ):
                shapes[f"h.{layer}.{block}.weight"] = (inside, outside)
                shapes[f"h.{layer}.{block}.bias"] = (outside,)
        return shapes

    def _require_shapes(self) -> None:
        for name, shape in self._model_tensors().items():
            if name not in self.stored:
                raise ValueError(f"checkpoint {self.path} has no tensor {name!r}; it is not a whole GPT-2 checkpoint")
            if self.stored[name].dtype not in _FLOATS:
                raise ValueError(
                    f"tensor {name!r} of {self.path} holds {self.stored[name].dtype} numbers; use a float checkpoint"
                )
            if self.stored[name].shape != shape:
                found = list(self.stored[name].shape)
                raise ValueError(
                    f"tensor {name!r} of {self.path} has shape {found}, but config.json says {list(shape)}"
                )


def _bos_token_id(config: Mapping[str, Any]) -> int | None:
    """BOS as transformers' GPT2Config takes it, unless that is no row of the embedding."""
    token_id = config.get("bos_token_id", 50256)
    return token_id if isinstance(token_id, int) and 0 <= token_id < _integer(config, "vocab_size") else None


def _integer(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config[name] if default is None else config.get(name) or default
    if not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}, not an integer")
    return value


def _read_json(file: Path, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} has no {file.name}; give a Hugging Face model directory") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{file.name} of {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} of {path} is not a JSON object")
    return content


def _weight_files(path: Path) -> list[str]:
    if (path / "model.safetensors").is_file():
        return ["model.safetensors"]
    if (path / "model.safetensors.index.json").is_file():
        weight_map = _read_json(path / "model.safetensors.index.json", path).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise ValueError(f"model.safetensors.index.json of {path} does not map tensors to files; copy it again")
        files = sorted(set(weight_map.values()))
        missing = [file for file in files if "/" in file or not (path / file).is_file()]
        if files and not missing:
            return files
        raise ValueError(f"{path} lacks weights files that its index names: {', '.join(missing) or 'it names none'}")
    if any(path.glob("*.bin")) or any(path.glob("*.pt")) or any(path.glob("*.pth")):
        raise ValueError(
            f"{path} has only pickle weights, which can run code and are not read; "
            "save it again as safetensors with model.save_pretrained(directory)"
        )
    raise ValueError(f"{path} has no weights: model.safetensors is missing; copy it there")


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
