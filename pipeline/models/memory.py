"""Tensors of a model that a program holds in memory: a transformers model, or a TransformerBridge around one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.families import architecture_of

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Kinds of numbers by their names in a safetensors file, in the order in which such a file holds them."""

_WRAPPED = "._original_component"
"""What a bridge puts behind the name of each part that it wraps."""


@dataclass(frozen=True)
class MemoryTensors:
    """The tensors of a model in memory, wherever its program keeps them.

    Attributes:
        source: what the model is called, for messages.
        stored: a tensor's name -> the tensor; of tied ones the one that a saved model keeps.
    """

    source: str
    stored: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, model: Any, source: str) -> MemoryTensors:
        """Find the tensors that `save_pretrained` would write.

        Args:
            model: a transformers model, or a TransformerBridge as it was booted.
            source: what it is called.

        Raises:
            ValueError: if it is another object, or its weights are not in memory, or not as they were trained.
        """
        module = unwrapped(model)
        state = {name.replace(_WRAPPED, ""): tensor for name, tensor in module.state_dict().items()}
        if module is not model:  # a bridge adds modules of its own, some of them views of the model's
            with torch.device("meta"):
                own = type(module)(module.config).state_dict()
            state = {name: state[name] for name in own if name in state}
        for name, tensor in state.items():
            if tensor.is_meta:
                raise ValueError(f"{source} has no values for {name!r}, as it is on the device meta; load its weights")
        return cls(source, _untied(state, getattr(module, "_tied_weights_keys", None) or ()))

    def names(self) -> Iterable[str]:
        """See `Tensors.names`."""
        return self.stored

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors.shape`."""
        found = self.stored[name]
        if found.dtype not in _DTYPES:
            raise ValueError(f"tensor {name!r} of {self.source} holds {found.dtype} numbers; use a float checkpoint")
        return tuple(found.shape)

    def tensor(self, name: str) -> np.ndarray:
        """See `Tensors.tensor`."""
        values = self.stored[name].detach().to("cpu", torch.float32)
        array: np.ndarray = values.contiguous().numpy()
        return array

    def identity(self) -> str:
        """SHA-256 of the one file that `save_pretrained` would write, so that a run is the one of that file."""
        order = list(_DTYPES)
        unknown = len(order)
        places = sorted(
            self.stored,
            key=lambda name: (order.index(dtype) if (dtype := self.stored[name].dtype) in order else unknown, name),
        )
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in places:
            tensor = self.stored[name]
            start, end = end, end + tensor.numel() * tensor.element_size()
            dtype = _DTYPES.get(tensor.dtype, str(tensor.dtype))
            header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        digest = hashlib.sha256(len(text).to_bytes(8, "little") + text)
        for name in places:
            values = self.stored[name].detach().cpu().contiguous().reshape(-1)
            digest.update(values.view(torch.uint8).numpy().data)
        return digest.hexdigest()


def is_loaded(model: Any) -> bool:
    """Whether an object is a model in memory, and no name of one."""
    return isinstance(model, torch.nn.Module)


def loaded_checkpoint(model: Any, path: Path) -> Checkpoint:
    """A model in memory as a checkpoint; nothing is copied.

    Args:
        model: a transformers model, or a TransformerBridge as it was booted.
        path: where its tokenizer is; need not exist.

    Raises:
        ValueError: if it is another object, its architecture is not supported, or a tensor is not what its
            configuration says.
    """
    source = f"{type(unwrapped(model)).__name__} in memory"
    config = json.loads(unwrapped(model).config.to_json_string())
    config["architectures"] = [type(unwrapped(model)).__name__]
    if (config.get("quantization_config") or {}).get("quant_method") == "gguf":
        del config["quantization_config"]  # the file was; transformers has made floats of it
    return Checkpoint.of(path, architecture_of(Config(config, source)), MemoryTensors.of(model, source))


def unwrapped(model: Any) -> Any:
    """The transformers model that an object is or holds.

    Raises:
        ValueError: if it is none, or its weights were changed for hooks.
    """
    kind = type(model).__name__
    if getattr(model, "compatibility_mode", False):
        raise ValueError(
            f"the {kind} is in compatibility mode, which may have folded its weights; give it as it was booted"
        )
    inner = getattr(model, "original_model", model) if kind == "TransformerBridge" else model
    if not isinstance(inner, torch.nn.Module) or not hasattr(getattr(inner, "config", None), "to_json_string"):
        raise ValueError(
            f"{kind} is no model that can be read; give a name, a directory, a GGUF file, a transformers model such as "
            "GPT2LMHeadModel, or a TransformerBridge"
        )
    return inner


def _untied(state: Mapping[str, torch.Tensor], tied: Iterable[str]) -> dict[str, torch.Tensor]:
    """Every tensor once: of several names for the same memory the one that is not tied to another."""
    second = set(tied)
    first: dict[tuple[int, torch.Size], str] = {}
    for name in sorted(state, key=lambda name: name in second):
        first.setdefault((state[name].data_ptr(), state[name].shape), name)
    kept = set(first.values())
    return {name: tensor for name, tensor in state.items() if name in kept or name not in second}
