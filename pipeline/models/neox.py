"""The family of GPT-NeoX, with Pythia: LayerNorm, a part of each head that is turned, a parallel join."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

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
from qkatlas.pipeline.models.weights import Weights

_ALL = ("queries", "keys", "values", "output")


class NeoX:
    """See `Family`."""

    name = "neox"
    classes: ClassVar[Mapping[str, tuple[str, ...]]] = {"gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXModel")}
    aliases: ClassVar[Mapping[str, str]] = {"embed_out.weight": "lm_head.weight"}
    embedding = "embed_in.weight"

    def architecture(self, config: Config) -> Architecture:
        """See `Family.architecture`; what is not given is as in transformers' GPTNeoXConfig."""
        source = config.source
        d_model, n_heads = config.integer("hidden_size", 6144), config.integer("num_attention_heads", 64)
        if min(d_model, n_heads) < 1 or d_model % n_heads:
            raise ValueError(
                f"config.json of {source} has impossible sizes: hidden_size {d_model}, num_attention_heads {n_heads}"
            )
        activation = config.text("hidden_act", "gelu")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act {activation!r} of {source} is not supported; supported are {', '.join(ACTIVATIONS)}"
            )
        vocab_size, bos = config.integer("vocab_size", 50432), config.optional_integer("bos_token_id", 0)
        n_ctx, d_head = config.integer("max_position_embeddings", 2048), d_model // n_heads
        rotary = read_rotary(
            config.section("rope_scaling") or config.section("rope_parameters"),
            source,
            theta=config.number("rotary_emb_base", 10000.0, whole=True),
            d_head=d_head,
            n_ctx=n_ctx,
            partial=config.number("rotary_pct", 0.25, whole=True),
        )
        return Architecture(
            family=self.name,
            n_layers=config.integer("num_hidden_layers", 44, most=MOST_LAYERS),
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_model=d_model,
            d_head=d_head,
            d_mlp=config.integer("intermediate_size", 24576),
            vocab_size=vocab_size,
            n_ctx=n_ctx,
            bos_token_id=bos if bos is not None and 0 <= bos < vocab_size else None,
            tied=config.flag("tie_word_embeddings", False),
            norm=Norm(kind="layer", eps=config.number("layer_norm_eps", 1e-5)),
            activation=activation,
            score_width=d_head,
            rotary=rotary,
            biases=(*(_ALL if config.flag("attention_bias", True) else ()), "mlp"),
            parallel=config.flag("use_parallel_residual", True),
        )

    def shapes(self, architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
        """See `Family.shapes`."""
        a = architecture
        yield self.embedding, (a.vocab_size, a.d_model)
        for kind in ("weight", "bias"):
            yield f"final_layer_norm.{kind}", (a.d_model,)
        attention_bias = "output" in a.biases
        for layer in range(a.n_layers):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                for kind in ("weight", "bias"):
                    yield f"layers.{layer}.{norm}.{kind}", (a.d_model,)
            for block, outside, inside, has_bias in (
                ("attention.query_key_value", 3 * a.d_model, a.d_model, attention_bias),
                ("attention.dense", a.d_model, a.d_model, attention_bias),
                ("mlp.dense_h_to_4h", a.d_mlp, a.d_model, True),
                ("mlp.dense_4h_to_h", a.d_model, a.d_mlp, True),
            ):
                yield f"layers.{layer}.{block}.weight", (outside, inside)
                if has_bias:
                    yield f"layers.{layer}.{block}.bias", (outside,)

    def query_key(self, weights: Weights, layer: int) -> QueryKeyWeights:
        """See `Family.query_key`."""
        queries, keys, _ = self._fused(weights, layer)
        return QueryKeyWeights(self._norm(weights, f"layers.{layer}.input_layernorm"), queries, keys)

    def value_output(self, weights: Weights, layer: int) -> ValueOutputWeights:
        """See `Family.value_output`."""
        *_, values = self._fused(weights, layer)
        has_bias = "output" in weights.architecture.biases
        return ValueOutputWeights(values, self._linear(weights, f"layers.{layer}.attention.dense", has_bias))

    def mlp(self, weights: Weights, layer: int) -> MlpWeights:
        """See `Family.mlp`."""
        return MlpWeights(
            self._norm(weights, f"layers.{layer}.post_attention_layernorm"),
            self._linear(weights, f"layers.{layer}.mlp.dense_h_to_4h", True),
            self._linear(weights, f"layers.{layer}.mlp.dense_4h_to_h", True),
        )

    def final_norm(self, weights: Weights) -> NormWeights:
        """See `Family.final_norm`."""
        return self._norm(weights, "final_layer_norm")

    def _fused(self, weights: Weights, layer: int) -> list[Projection]:
        """Queries, keys and values, which one tensor holds head by head."""
        a = weights.architecture
        fused = self._linear(weights, f"layers.{layer}.attention.query_key_value", "queries" in a.biases)
        weight = fused.weight_DP.reshape(a.d_model, a.n_heads, 3, a.d_head)
        bias = None if fused.bias_P is None else fused.bias_P.reshape(a.n_heads, 3, a.d_head)
        return [
            Projection(
                np.ascontiguousarray(weight[:, :, part]).reshape(a.d_model, -1),
                None if bias is None else bias[:, part].reshape(-1),
            )
            for part in range(3)
        ]

    def _norm(self, weights: Weights, name: str) -> NormWeights:
        return NormWeights(weights.architecture.norm, weights.tensor(f"{name}.weight"), weights.tensor(f"{name}.bias"))

    def _linear(self, weights: Weights, name: str, has_bias: bool) -> Projection:
        """A torch Linear, whose weight is [out, in]."""
        return Projection(weights.tensor(f"{name}.weight").T, weights.tensor(f"{name}.bias") if has_bias else None)
