"""The family of Llama: rotary positions, RMSNorm, grouped queries, gated MLPs, in the kinds that flags tell apart.

Its members are Llama 2 and 3, SmolLM2, Mistral, Qwen 2, 2.5 and 3, and the text models of Gemma 1 to 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from qkatlas.pipeline.models.activations import ACTIVATIONS
from qkatlas.pipeline.models.architecture import MOST_LAYERS, Architecture, Norm
from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.family import (
    MlpWeights,
    NormWeights,
    Projection,
    QueryKeyWeights,
    ValueOutputWeights,
)
from qkatlas.pipeline.models.rope_config import read_rotary
from qkatlas.pipeline.models.rotary import Rotary
from qkatlas.pipeline.models.weights import Weights

PROJECTIONS = ("queries", "keys", "values", "output")
"""Projections of attention, as `Architecture.biases` names them."""

_TENSORS = {"queries": "q_proj", "keys": "k_proj", "values": "v_proj", "output": "o_proj"}

_GEMMA_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
"""Norms that a layer has beside the two of every layer, where what is added is normalised."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What one `model_type` has of its own, and what its configuration class takes where nothing is said."""

    hidden_size: int = 4096
    intermediate_size: int = 11008
    layers: int = 32
    heads: int = 32
    kv_heads: int | None = None
    """None = as many as query heads."""
    head_dim: int | None = None
    """None = d_model / heads."""
    vocab_size: int = 151936
    positions: int = 32768
    bos: int | None = None
    biases: tuple[str, ...] = ()
    bias_flag: bool = False
    """Whether `attention_bias` gives every projection of attention a bias."""
    mlp_bias_flag: bool = False
    head_norms: bool = False
    gemma: int = 0
    """Generation of Gemma, 0 for others."""
    divides: bool = False
    """Whether the number of heads has to divide d_model."""


KINDS: Mapping[str, Kind] = {
    "llama": Kind(
        vocab_size=32000, positions=2048, bos=1, bias_flag=True, mlp_bias_flag=True, divides=True
    ),
    "mistral": Kind(intermediate_size=14336, kv_heads=8, vocab_size=32000, positions=4096 * 32, bos=1),
    "qwen2": Kind(intermediate_size=22016, kv_heads=32, biases=("queries", "keys", "values")),
    "qwen3": Kind(intermediate_size=22016, kv_heads=32, head_dim=128, bias_flag=True, head_norms=True),
    "gemma": Kind(
        hidden_size=3072, intermediate_size=24576, layers=28, heads=16, kv_heads=16, head_dim=256, vocab_size=256000,
        positions=8192, bos=2, bias_flag=True, gemma=1,
    ),
    "gemma2": Kind(
        hidden_size=2304, intermediate_size=9216, layers=26, heads=8, kv_heads=4, head_dim=256, vocab_size=256000,
        positions=8192, bos=2, bias_flag=True, gemma=2, divides=True,
    ),
    "gemma3_text": Kind(
        hidden_size=2304, intermediate_size=9216, layers=26, heads=8, kv_heads=4, head_dim=256, vocab_size=262208,
        positions=131072, bos=2, bias_flag=True, head_norms=True, gemma=3, divides=True,
    ),
}  # fmt: skip
"""A `model_type` -> its kind."""


class Llama:
    """See `Family`."""

    name = "llama"
    classes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "llama": ("LlamaForCausalLM", "LlamaModel"),
        "mistral": ("MistralForCausalLM", "MistralModel"),
        "qwen2": ("Qwen2ForCausalLM", "Qwen2Model"),
        "qwen3": ("Qwen3ForCausalLM", "Qwen3Model"),
        "gemma": ("GemmaForCausalLM", "GemmaModel"),
        "gemma2": ("Gemma2ForCausalLM", "Gemma2Model"),
        "gemma3_text": ("Gemma3ForCausalLM", "Gemma3TextModel"),
    }
    aliases: ClassVar[Mapping[str, str]] = {}
    embedding = "embed_tokens.weight"

    def architecture(self, config: Config) -> Architecture:
        """See `Family.architecture`; what is not given is as in the configuration class of the model_type."""
        model_type = config.model_type or next(t for t, names in self.classes.items() if config.class_name in names)
        kind, source = KINDS[model_type], config.source
        if config.values.get("use_bidirectional_attention"):
            raise ValueError(f"{source} attends to later tokens (use_bidirectional_attention), which is not supported")
        d_model = config.integer("hidden_size", kind.hidden_size)
        n_heads = config.integer("num_attention_heads", kind.heads)
        n_kv_heads = config.optional_integer("num_key_value_heads", kind.kv_heads)
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if min(d_model, n_heads, n_kv_heads) < 1 or n_heads % n_kv_heads or (kind.divides and d_model % n_heads):
            raise ValueError(
                f"config.json of {source} has impossible sizes: hidden_size {d_model}, num_attention_heads {n_heads}, "
                f"num_key_value_heads {n_kv_heads}"
            )
        d_head = config.optional_integer("head_dim", kind.head_dim)
        d_head = d_model // n_heads if d_head is None else d_head
        vocab_size, n_ctx = (
            config.integer("vocab_size", kind.vocab_size),
            config.integer("max_position_embeddings", kind.positions),
        )
        bos = config.optional_integer("bos_token_id", kind.bos)
        biases = kind.biases
        if kind.bias_flag and config.flag("attention_bias", False):
            biases = PROJECTIONS
        if kind.mlp_bias_flag and config.flag("mlp_bias", False):
            biases = (*biases, "mlp")
        n_layers = config.integer("num_hidden_layers", kind.layers, most=MOST_LAYERS)
        window, windowed = _windows(config, model_type, n_layers)
        rotary, local_rotary = _rotary(config, kind, d_head=d_head, n_ctx=n_ctx)
        return Architecture(
            family=self.name,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            d_model=d_model,
            d_head=d_head,
            d_mlp=config.integer("intermediate_size", kind.intermediate_size),
            vocab_size=vocab_size,
            n_ctx=n_ctx,
            bos_token_id=bos if bos is not None and 0 <= bos < vocab_size else None,
            tied=config.flag("tie_word_embeddings", kind.gemma > 0),
            norm=Norm(kind="rms", eps=config.number("rms_norm_eps", 1e-6), plus_one=kind.gemma > 0),
            activation=_activation(config, kind),
            score_width=_score_width(config) if kind.gemma > 1 else d_head,
            # Gemma 3 has the setting too, but its attention does not read it.
            score_cap=_cap(config, "attn_logit_softcapping", 50.0) if kind.gemma == 2 else None,
            logit_cap=_cap(config, "final_logit_softcapping", 30.0 if kind.gemma == 2 else None)
            if kind.gemma > 1
            else None,
            embed_scale=d_model**0.5 if kind.gemma else 1.0,
            rotary=rotary,
            local_rotary=local_rotary,
            window=window,
            windowed=windowed,
            biases=biases,
            gated=True,
            head_norms=kind.head_norms,
            after_norms=kind.gemma > 1,
        )

    def shapes(self, architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
        """See `Family.shapes`."""
        a = architecture
        yield self.embedding, (a.vocab_size, a.d_model)
        yield "norm.weight", (a.d_model,)
        outputs, kv_outputs = a.n_heads * a.d_head, a.n_kv_heads * a.d_head
        for layer in range(a.n_layers):
            for norm in ("input_layernorm", "post_attention_layernorm", *(_GEMMA_NORMS if a.after_norms else ())):
                yield f"layers.{layer}.{norm}.weight", (a.d_model,)
            for name, outside, inside in (
                ("queries", outputs, a.d_model),
                ("keys", kv_outputs, a.d_model),
                ("values", kv_outputs, a.d_model),
                ("output", a.d_model, outputs),
            ):
                yield f"layers.{layer}.self_attn.{_TENSORS[name]}.weight", (outside, inside)
                if name in a.biases:
                    yield f"layers.{layer}.self_attn.{_TENSORS[name]}.bias", (outside,)
            for name in ("q_norm", "k_norm") if a.head_norms else ():
                yield f"layers.{layer}.self_attn.{name}.weight", (a.d_head,)
            for name, outside, inside in (
                ("gate_proj", a.d_mlp, a.d_model),
                ("up_proj", a.d_mlp, a.d_model),
                ("down_proj", a.d_model, a.d_mlp),
            ):
                yield f"layers.{layer}.mlp.{name}.weight", (outside, inside)
                if "mlp" in a.biases:
                    yield f"layers.{layer}.mlp.{name}.bias", (outside,)

    def query_key(self, weights: Weights, layer: int) -> QueryKeyWeights:
        """See `Family.query_key`."""
        block = f"layers.{layer}.self_attn"
        norms = [
            self._norm(weights, f"{block}.{name}") if weights.architecture.head_norms else None
            for name in ("q_norm", "k_norm")
        ]
        return QueryKeyWeights(
            self._norm(weights, f"layers.{layer}.input_layernorm"),
            self._attention(weights, layer, "queries"),
            self._attention(weights, layer, "keys"),
            *norms,
        )

    def value_output(self, weights: Weights, layer: int) -> ValueOutputWeights:
        """See `Family.value_output`."""
        after = f"layers.{layer}.post_attention_layernorm"
        return ValueOutputWeights(
            self._attention(weights, layer, "values"),
            self._attention(weights, layer, "output"),
            self._norm(weights, after) if weights.architecture.after_norms else None,
        )

    def mlp(self, weights: Weights, layer: int) -> MlpWeights:
        """See `Family.mlp`."""
        before = "pre_feedforward_layernorm" if weights.architecture.after_norms else "post_attention_layernorm"
        after = f"layers.{layer}.post_feedforward_layernorm"
        has_bias = "mlp" in weights.architecture.biases
        gate, up, down = (
            _projection(weights, f"layers.{layer}.mlp.{name}", has_bias)
            for name in ("gate_proj", "up_proj", "down_proj")
        )
        return MlpWeights(
            self._norm(weights, f"layers.{layer}.{before}"),
            gate,
            down,
            up,
            self._norm(weights, after) if weights.architecture.after_norms else None,
        )

    def final_norm(self, weights: Weights) -> NormWeights:
        """See `Family.final_norm`."""
        return self._norm(weights, "norm")

    def _attention(self, weights: Weights, layer: int, name: str) -> Projection:
        return _projection(weights, f"layers.{layer}.self_attn.{_TENSORS[name]}", name in weights.architecture.biases)

    def _norm(self, weights: Weights, name: str) -> NormWeights:
        return NormWeights(weights.architecture.norm, weights.tensor(f"{name}.weight"))


def _projection(weights: Weights, name: str, has_bias: bool) -> Projection:
    """A torch Linear, whose weight is [out, in]."""
    return Projection(weights.tensor(f"{name}.weight").T, weights.tensor(f"{name}.bias") if has_bias else None)


def _score_width(config: Config) -> int:
    width = config.integer("query_pre_attn_scalar", 256)
    if width < 1:
        raise ValueError(f"query_pre_attn_scalar {width} of {config.source} is impossible; give 1 or more")
    return width


def _cap(config: Config, name: str, default: float | None) -> float | None:
    cap = config.optional_number(name, default)
    if cap == 0:
        raise ValueError(f"{name} {cap} of {config.source} is impossible; give more than 0, or null for none")
    return cap


def _activation(config: Config, kind: Kind) -> str:
    name = "hidden_activation" if kind.gemma > 1 else "hidden_act"
    activation = config.text(name, "gelu_pytorch_tanh" if kind.gemma else "silu")
    if kind.gemma == 1 and activation == "gelu":
        activation = "gelu_pytorch_tanh"  # which the first releases meant by it
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{name} {activation!r} of {config.source} is not supported; supported are {', '.join(ACTIVATIONS)}"
        )
    return activation


def _windows(config: Config, model_type: str, n_layers: int) -> tuple[int | None, tuple[int, ...]]:
    """Positions that layers with a window read, and which layers these are."""
    if model_type in ("llama", "gemma"):
        return None, ()
    window = config.optional_integer("sliding_window", 4096)
    if model_type == "mistral":
        types = ["full_attention" if window is None else "sliding_attention"] * n_layers
    elif model_type in ("qwen2", "qwen3"):
        window = window if config.flag("use_sliding_window", False) else None
        first = config.integer("max_window_layers", 28)
        types = [
            "sliding_attention" if window is not None and layer >= first else "full_attention"
            for layer in range(n_layers)
        ]
    else:
        period = 2 if model_type == "gemma2" else config.integer("sliding_window_pattern", 6)
        if period < 1:
            raise ValueError(f"sliding_window_pattern {period} of {config.source} is impossible; give 1 or more")
        types = ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(n_layers)]
    given = config.values.get("layer_types")
    if given is not None and model_type != "mistral":
        types = given if isinstance(given, list) else []
        known = all(name in ("sliding_attention", "full_attention") for name in types)
        if len(types) != n_layers or not known:
            raise ValueError(
                f"layer_types of {config.source} is not supported; it has to name full_attention or sliding_attention "
                f"for each of {n_layers} layers"
            )
    windowed = tuple(layer for layer, name in enumerate(types) if name == "sliding_attention")
    if windowed and (window is None or window < 1):
        raise ValueError(f"sliding_window {window} of {config.source} is impossible for its layers of that type")
    return (window, windowed) if windowed else (None, ())


def _rotary(config: Config, kind: Kind, *, d_head: int, n_ctx: int) -> tuple[Rotary, Rotary | None]:
    """How layers turn queries and keys, and how those with a window do where these differ."""
    source = config.source
    scaling, parameters = config.section("rope_scaling"), config.section("rope_parameters")
    nested = {"full_attention", "sliding_attention"} & set(parameters)
    if kind.gemma < 3:
        if nested:
            raise ValueError(f"rope_parameters of {source} differ from layer to layer, which is not supported")
        theta = config.number("rope_theta", 10000.0, whole=True)
        partial = config.number("partial_rotary_factor", 1.0, whole=True)
        if partial != 1 or parameters.get("partial_rotary_factor", 1) != 1:
            raise ValueError(f"partial_rotary_factor of {source} is not supported for its model_type")
        return read_rotary(scaling or parameters, source, theta=theta, d_head=d_head, n_ctx=n_ctx), None
    if parameters and not nested:
        raise ValueError(f"rope_parameters of {source} have to name full_attention and sliding_attention")
    objects = {name: parameters.get(name) or {} for name in ("full_attention", "sliding_attention")}
    if any(not isinstance(values, dict) for values in objects.values()):
        raise ValueError(f"rope_parameters of {source} cannot be used; each type of layer needs an object")
    whole, local = (
        read_rotary(values, source, theta=config.number(name, default, whole=True), d_head=d_head, n_ctx=n_ctx)
        for values, name, default in (
            ({**objects["full_attention"], **scaling}, "rope_theta", 1_000_000.0),
            (objects["sliding_attention"], "rope_local_base_freq", 10_000.0),
        )
    )
    return whole, local
