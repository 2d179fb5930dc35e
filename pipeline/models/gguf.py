"""Models of the family of Llama in GGUF files: their metadata as a configuration, their tensors dequantised and named.

What counts is the dequantised weight. Converters store the rows of Llama's queries and keys in another order, and the
gains of Gemma's norms with the 1 added; both are undone here. Tensors are read from the file a block at a time, so that
what is held is the tensor and not the file, nor a copy of what is dequantised.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.families import architecture_of
from qkatlas.pipeline.models.safetensors import file_sha256

_MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
"""`general.architecture` -> `model_type`."""

_SETTINGS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
}
"""Metadata of an architecture -> the setting of config.json that means the same."""

_NEEDED = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length")

_WHOLE = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
}

_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of a layer's tensors -> their names in the family; those of the norms around the MLP differ by model."""

_DIVISORS = "rope_freqs.weight"
"""What frequencies are divided by, one number a pair."""

_WIDEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the one size of a model that divides scores by the square root of d_model / heads, not of the width."""


_LONG = 4096
"""Entries of a list of metadata from which it is stepped over: a vocabulary's; what layers have is shorter."""

_LENGTH = struct.Struct("<Q")

_BLOCK = 1 << 20
"""Numbers that are dequantised at a time; what that takes for a while is several times as large."""


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies in its file, and what its bytes are.

    Attributes:
        name: as the file has it.
        shape: of its numbers, from the first dimension on.
        start: of its first byte.
        rows: rows that it is stored in.
        items: items of a row: numbers, or bytes of blocks of them.
        dtype: of an item.
        kind: of quantisation, as the `gguf` package names it.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    rows: int
    items: int
    dtype: np.dtype[Any]
    kind: Any

    @classmethod
    def of(cls, tensor: Any) -> GgufTensor:
        """What the reader of the `gguf` package says of a tensor, without its numbers."""
        shape = tuple(int(size) for size in reversed(tensor.shape))  # the file counts dimensions from the last
        items = tensor.data.shape[-1]
        rows = math.prod(tensor.data.shape[:-1])
        return cls(tensor.name, shape, tensor.data_offset, rows, items, tensor.data.dtype, tensor.tensor_type)

    def read(self, path: Path) -> np.ndarray:
        """The dequantised numbers, float32 of the shape.

        Raises:
            ValueError: if the file ends before them, or they are quantised in a way that is not read.
        """
        values = np.empty(self.shape, np.float32)
        values_RP = values.reshape(self.rows, -1)
        at_once = max(1, _BLOCK // values_RP.shape[1])
        with path.open("rb") as file:
            file.seek(self.start)
            for first in range(0, self.rows, at_once):
                block_RP = values_RP[first : first + at_once]
                stored = np.fromfile(file, self.dtype, len(block_RP) * self.items)
                if stored.size != len(block_RP) * self.items:
                    raise ValueError(f"{path} ends within its tensor {self.name!r}; copy it again")
                block_RP[:] = self._dequantised(stored.reshape(len(block_RP), self.items), path)
        return values

    def _dequantised(self, stored: np.ndarray, path: Path) -> np.ndarray:
        from gguf.quants import dequantize

        try:
            values: np.ndarray = dequantize(stored, self.kind)
        except NotImplementedError as error:
            raise ValueError(
                f"tensor {self.name!r} of {path} is quantised as {self.kind.name}, which is not read; "
                "use another quantisation of the model"
            ) from error
        return values


@dataclass(frozen=True)
class GgufFile:
    """The tensors of a GGUF file, under the names of their family.

    Attributes:
        path: the file.
        architecture: what its metadata says.
        stored: a tensor's name in the family -> where it lies.
        permuted: number of heads of the tensors whose rows are stored pair by pair.
    """

    path: Path
    architecture: Architecture
    stored: Mapping[str, GgufTensor]
    permuted: Mapping[str, int]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Read a file's metadata.

        Args:
            path: the file.

        Raises:
            ValueError: if it is no sound GGUF file, or of an architecture or with tensors that are not known.
        """
        try:
            reader = _read_header(path)
        except (ValueError, IndexError, KeyError, OSError, struct.error) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path} is no sound GGUF file ({reason}); copy it again") from error
        metadata = {
            name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.t")
        }
        kind = metadata.get("general.architecture")
        if kind not in _MODEL_TYPES:
            raise ValueError(
                f"architecture {kind!r} of {path} is not supported in GGUF; supported are {', '.join(_MODEL_TYPES)}"
            )
        if metadata.get("split.count", 1) not in (0, 1):
            raise ValueError(f"{path} is one of several files of a model; join them with llama-gguf-split --merge")
        stored = {_family_name(tensor.name, kind, path): GgufTensor.of(tensor) for tensor in reader.tensors}
        divisors = stored.pop(_DIVISORS, None)
        architecture = architecture_of(_config(metadata, kind, stored, str(path)))
        rotary = architecture.rotary
        if divisors is not None and rotary is not None:
            values = tuple(map(float, divisors.read(path).ravel()))
            if len(values) != rotary.turned // 2 or min(values) <= 0 or not np.isfinite(values).all():
                raise ValueError(f"{path} has impossible {_DIVISORS}; copy it again")
            rotary = replace(rotary, divisors=values)
        # The 1 of Gemma's gains is part of what is stored.
        architecture = replace(architecture, norm=replace(architecture.norm, plus_one=False), rotary=rotary)
        permuted: dict[str, int] = {}
        if kind == "llama":
            for layer in range(architecture.n_layers):
                for name, heads in (("q_proj", architecture.n_heads), ("k_proj", architecture.n_kv_heads)):
                    for part in ("weight", "bias"):
                        permuted[f"layers.{layer}.self_attn.{name}.{part}"] = heads
        return cls(path, architecture, stored, permuted)

    @property
    def source(self) -> str:
        """See `Tensors.source`."""
        return str(self.path)

    def names(self) -> Iterable[str]:
        """See `Tensors.names`."""
        return self.stored

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors.shape`."""
        return self.stored[name].shape

    def tensor(self, name: str) -> np.ndarray:
        """See `Tensors.tensor`."""
        values = self.stored[name].read(self.path)
        heads = self.permuted.get(name)
        if heads is not None:
            pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        return values

    def identity(self) -> str:
        """SHA-256 of the file."""
        return file_sha256(self.path)


def _read_header(path: Path) -> Any:
    """What the `gguf` package reads of a file, its vocabulary stepped over.

    The package makes several arrays of each of the hundred thousand strings of a vocabulary: seconds, and more memory
    than the weights of a small model. Nothing here asks for them.
    """
    # Loaded here, for other checkpoints do without.
    from gguf import GGUFReader, GGUFValueType

    class HeaderReader(GGUFReader):
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY or self.byte_order == "S":
                return super()._get_field_parts(orig_offs, raw_type)
            item_type, count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
            kind = GGUFValueType(item_type[0])
            if count[0] < _LONG or not (kind == GGUFValueType.STRING or kind in self.gguf_scalar_to_np):
                return super()._get_field_parts(orig_offs, raw_type)
            place = int(orig_offs) + 12
            if kind != GGUFValueType.STRING:
                place += int(count[0]) * np.dtype(self.gguf_scalar_to_np[kind]).itemsize
            else:
                stored = self.data.data
                for _ in range(int(count[0])):
                    place += 8 + _LENGTH.unpack_from(stored, place)[0]
            return place - orig_offs, [item_type, count], [], [GGUFValueType.ARRAY, kind]

    return HeaderReader(path)


def _family_name(name: str, kind: str, path: Path) -> str:
    """A tensor's name in the family.

    Raises:
        ValueError: if its architecture has no such tensor, for what it does is not known then.
    """
    of_layer = dict(_OF_LAYER)
    if kind in ("gemma2", "gemma3"):
        of_layer |= {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
    else:
        of_layer |= {"ffn_norm": "post_attention_layernorm"}
    stem, _, part = name.rpartition(".")
    if part in ("weight", "bias"):
        if stem in _WHOLE:
            return f"{_WHOLE[stem]}.{part}"
        block, _, of = stem.partition(".")[2].partition(".")
        if stem.startswith("blk.") and block.isdigit() and of in of_layer:
            return f"layers.{int(block)}.{of_layer[of]}.{part}"
        if name == _DIVISORS:
            return name
    raise ValueError(f"tensor {name!r} of {path} is not known to its architecture {kind!r}, which is not supported")


def _config(metadata: Mapping[str, Any], kind: str, stored: Mapping[str, GgufTensor], source: str) -> Config:
    """The configuration that says what the metadata says.

    Raises:
        ValueError: if something is missing, or is not computed exactly.
    """

    def found(name: str) -> Any:
        return metadata.get(f"{kind}.{name}")

    missing = [name for name in _NEEDED if found(name) is None]
    if missing:
        raise ValueError(f"{source} lacks the metadata {kind}.{missing[0]}; use a whole GGUF file")
    for name in ("attention.scale", "attention.key_length_mla", "expert_count", "rope.scaling.attn_factor"):
        if found(name):
            raise ValueError(f"{kind}.{name} of {source} is not supported")
    values = {setting: found(name) for name, setting in _SETTINGS.items() if found(name) is not None}
    values |= {
        "model_type": _MODEL_TYPES[kind],
        "vocab_size": stored["embed_tokens.weight"].shape[0] if "embed_tokens.weight" in stored else 0,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "tie_word_embeddings": "lm_head.weight" not in stored,
        "attention_bias": kind != "qwen2" and "layers.0.self_attn.q_proj.bias" in stored,
        "mlp_bias": "layers.0.mlp.up_proj.bias" in stored,
    }
    if kind == "llama" and "sliding_window" in values:
        values["model_type"] = "mistral"
    if kind in ("qwen2", "qwen3"):
        values.pop("sliding_window", None)  # written, and not used unless it is asked for
    d_model, n_heads = values["hidden_size"], values["num_attention_heads"]
    if isinstance(d_model, int) and isinstance(n_heads, int) and n_heads > 0:
        values.setdefault("head_dim", d_model // n_heads)
        if kind in ("gemma2", "gemma3"):
            widest = values["num_hidden_layers"] == _WIDEST[kind]
            values["query_pre_attn_scalar"] = d_model // n_heads if widest else values["head_dim"]
    turned = found("rope.dimension_count")
    if turned is not None and turned != values.get("head_dim"):
        raise ValueError(
            f"{kind}.rope.dimension_count {turned} of {source} is not its heads' width, which is not supported"
        )
    scaling = found("rope.scaling.type") or ("linear" if found("rope.scale_linear") else "none")
    if scaling == "linear":
        factor = found("rope.scaling.factor") or found("rope.scale_linear")
        values["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    elif scaling != "none":
        raise ValueError(f"{kind}.rope.scaling.type {scaling!r} of {source} is not supported in GGUF; use safetensors")
    return Config(values, source)
