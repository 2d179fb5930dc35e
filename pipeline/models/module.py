"""The torch module that transformers makes of a model's architecture, with the weights assigned and nothing copied.

Its configuration is written from the architecture, so that a model from a GGUF file, or one that a worker was sent, is
built as one from a directory is.

Shapes: T positions, W width that is turned.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.family import UNEMBEDDING
from qkatlas.pipeline.models.reach import reach
from qkatlas.pipeline.models.rotary import Rotary
from qkatlas.pipeline.models.weights import ModelWeights

_TANH_GELU = ("gelu_new", "gelu_fast")
"""Activations that are gelu_pytorch_tanh under another name."""

_BODY = {"gpt2": "transformer", "llama": "model", "neox": "gpt_neox"}
"""A family -> the name of what lies under the unembedding."""

_ATTENTION = {"queries", "keys", "values", "output"}


def module_of(weights: ModelWeights, device: torch.device) -> Any:
    """Build a model that computes eagerly, on one device.

    Args:
        weights: the model; its arrays are used where they lie on CPUs.
        device: the device.

    Returns:
        A transformers model for causal language modelling, without gradients.

    Raises:
        ValueError: if transformers has no model of this architecture.
    """
    a = weights.architecture
    module_class, config = _gpt2(a) if a.family == "gpt2" else _neox(a) if a.family == "neox" else _llama(a)
    config._attn_implementation = "eager"  # the others compute no scores that could be hooked
    with torch.device("meta"):  # no memory, no initialisation
        module: Any = module_class(config)
    module.load_state_dict(_state(weights), assign=True)
    _set_buffers(module, a)
    module.to(device).eval().requires_grad_(False)
    return module


def _state(weights: ModelWeights) -> dict[str, torch.Tensor]:
    a = weights.architecture
    body = _BODY[a.family]
    with warnings.catch_warnings():
        # Arrays that other processes share are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        state = {
            name if name == UNEMBEDDING else f"{body}.{name}": torch.from_numpy(array)
            for name, array in weights.tensors.items()
        }
    if UNEMBEDDING not in state:
        # What has no unembedding has no logits; a number that were taken for one would show.
        none_VD = torch.full((1, 1), torch.nan).expand(a.vocab_size, a.d_model)
        state[UNEMBEDDING] = state[f"{body}.{family_of(a).embedding}"] if a.tied else none_VD
    if a.family == "gpt2" and a.score_width is None:
        # TransformerBridge divides by sqrt(H) all the same; queries as much longer make up for it.
        for layer in range(a.n_layers):
            for kind in ("weight", "bias"):
                longer = state[f"transformer.h.{layer}.attn.c_attn.{kind}"].clone()
                longer[..., : a.d_model] *= math.sqrt(a.d_head)
                state[f"transformer.h.{layer}.attn.c_attn.{kind}"] = longer
    if a.family == "neox":
        for layer in range(a.n_layers if "queries" not in a.biases else 0):
            # TransformerBridge reads biases of attention that need not be there.
            for name, width in (("query_key_value", 3 * a.d_model), ("dense", a.d_model)):
                state[f"gpt_neox.layers.{layer}.attention.{name}.bias"] = torch.zeros(width)
    return state


def _gpt2(a: Architecture) -> tuple[Any, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel, GPT2Config(
        vocab_size=a.vocab_size,
        n_positions=a.n_ctx,
        n_embd=a.d_model,
        n_layer=a.n_layers,
        n_head=a.n_heads,
        n_inner=a.d_mlp,
        # The same function in one fused pass, a fifth of the time of a layer's MLP less.
        activation_function="gelu_pytorch_tanh" if a.activation in _TANH_GELU else a.activation,
        layer_norm_epsilon=a.norm.eps,
        scale_attn_weights=a.score_width is not None,
        scale_attn_by_inverse_layer_idx=a.scale_by_layer,
        tie_word_embeddings=a.tied,
    )


def _neox(a: Architecture) -> tuple[Any, Any]:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    assert a.rotary is not None
    return GPTNeoXForCausalLM, GPTNeoXConfig(
        **_sizes(a),
        hidden_act=a.activation,
        layer_norm_eps=a.norm.eps,
        use_parallel_residual=a.parallel,
        rope_parameters={**_rope(a.rotary), "partial_rotary_factor": a.rotary.width / a.d_head},
    )


def _llama(a: Architecture) -> tuple[Any, Any]:
    import transformers

    assert a.rotary is not None
    given: dict[str, Any] = {
        **_sizes(a),
        "num_key_value_heads": a.n_kv_heads,
        "head_dim": a.d_head,
        "rms_norm_eps": a.norm.eps,
        "hidden_act": a.activation,
        "hidden_activation": a.activation,
        "rope_parameters": _rope(a.rotary),
        "attention_bias": set(a.biases) >= _ATTENTION,
        "sliding_window": a.window,
        "use_sliding_window": a.window is not None,
        "layer_types": [_layer_type(a, layer) for layer in range(a.n_layers)],
    }
    biases = _ATTENTION & set(a.biases)
    if a.norm.plus_one:
        given["final_logit_softcapping"] = a.logit_cap
        given["query_pre_attn_scalar"] = a.score_width
        if not a.after_norms:
            return transformers.GemmaForCausalLM, transformers.GemmaConfig(**given)
        if not a.head_norms:
            given["attn_logit_softcapping"] = a.score_cap
            return transformers.Gemma2ForCausalLM, transformers.Gemma2Config(**given)
        local = _rope(a.local_rotary or a.rotary)
        given["rope_parameters"] = {"full_attention": given["rope_parameters"], "sliding_attention": local}
        return transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig(**given)
    if a.head_norms:
        return transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**given)
    if biases == {"queries", "keys", "values"}:
        return transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**given)
    if a.window is None:
        return transformers.LlamaForCausalLM, transformers.LlamaConfig(**given, mlp_bias="mlp" in a.biases)
    if len(a.windowed) == a.n_layers and not a.biases:
        return transformers.MistralForCausalLM, transformers.MistralConfig(**given)
    raise ValueError(
        f"transformers has no model with windows on {len(a.windowed)} of {a.n_layers} layers and biases "
        f"{', '.join(a.biases) or 'nowhere'}, so that it cannot be run; submit full-vocab --states mlp needs no run"
    )


def _sizes(a: Architecture) -> dict[str, Any]:
    return {
        "vocab_size": a.vocab_size,
        "hidden_size": a.d_model,
        "intermediate_size": a.d_mlp,
        "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads,
        "max_position_embeddings": a.n_ctx,
        "tie_word_embeddings": a.tied,
        "pad_token_id": None,
    }


def _rope(rotary: Rotary) -> dict[str, Any]:
    """A kind that fixes the shape; what a layer is turned by is set afterwards, with every scaling in it."""
    return {"rope_type": "default", "rope_theta": rotary.theta}


def _layer_type(a: Architecture, layer: int) -> str:
    return "sliding_attention" if layer in a.windowed else "full_attention"


def _set_buffers(module: Any, a: Architecture) -> None:
    """Fill the buffers, which hold nothing in a module without memory, as the architecture says it."""
    if a.rotary is None:
        return
    if a.embed_scale != 1:
        module.get_input_embeddings().embed_scale = torch.tensor(a.embed_scale)
    turning = rotary_module(module, a)
    kinds = {"": a.rotary}
    if a.local_rotary is not None or hasattr(turning, "layer_types"):
        kinds = {"full_attention_": a.rotary, "sliding_attention_": a.local_rotary or a.rotary}
    for kind, rotary in kinds.items():
        for name in (f"{kind}inv_freq", f"{kind}original_inv_freq"):
            if hasattr(turning, name):
                setattr(turning, name, torch.from_numpy(rotary.frequencies().astype(np.float32)))
        setattr(turning, f"{kind}attention_scaling", rotary.factor)


def rotary_module(module: Any, a: Architecture) -> Any:
    """The part of a model that gives cosines and sines of positions."""
    return getattr(module, _BODY[a.family]).rotary_emb


class BlockArguments:
    """What a layer of a model with rotary positions is given beside the residual stream.

    Args:
        module: the model, before anything wraps its parts.
        architecture: its architecture.
    """

    def __init__(self, module: Any, architecture: Architecture) -> None:
        self._architecture = architecture
        self._turning = None if architecture.rotary is None else rotary_module(module, architecture)
        self._made: dict[tuple[int, str], dict[str, Any]] = {}

    def of(self, layer: int, stream_PTD: torch.Tensor) -> dict[str, Any]:
        """Keyword arguments of a layer for a residual stream; none where positions are part of it."""
        if self._turning is None:
            return {}
        kind, length = _layer_type(self._architecture, layer), stream_PTD.shape[1]
        if (length, kind) not in self._made:
            position_1T = torch.arange(length, device=stream_PTD.device)[None]
            read_TT = reach(length, self._architecture.window_of(layer), device=stream_PTD.device)
            least = torch.finfo(stream_PTD.dtype).min
            zeros_TT = torch.zeros(length, length, dtype=stream_PTD.dtype, device=stream_PTD.device)
            mask_TT = zeros_TT.masked_fill(~read_TT, least)
            by_type = (kind,) if hasattr(self._turning, "layer_types") else ()
            self._made[length, kind] = {
                "attention_mask": mask_TT[None, None],
                "position_ids": position_1T,
                "position_embeddings": self._turning(stream_PTD[:1], position_1T, *by_type),
            }
        return self._made[length, kind]
