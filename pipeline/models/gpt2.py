"""The family of GPT-2: learned positions, LayerNorm, one fused projection, Conv1D weights that are [in, out]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from qkatlas.pipeline.models.activations import ACTIVATIONS
from qkatlas.pipeline.models.architecture import Architecture, Norm
from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.family import (
    MlpWeights,
    NormWeights,
    Projection,
    QueryKeyWeights,
    ValueOutputWeights,
)
from qkatlas.pipeline.models.weights import Weights

POSITIONS = "wpe.weight"
"""Name of the embedding of positions, [T, D]."""

_ALIASES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}


class Gpt2:
    """See `Family`."""

    name = "gpt2"
    classes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "gpt2": ("GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel")
    }
    aliases: ClassVar[Mapping[str, str]] = {}
    embedding = "wte.weight"

    def architecture(self, config: Config) -> Architecture:
        """See `Family.architecture`; what is not given is as in transformers' GPT2Config."""
        config = Config(config.values, config.source, _ALIASES)
        if config.flag("add_cross_attention", False):
            raise ValueError(f"{config.source} has cross-attention (add_cross_attention), which is not supported")
        d_model, n_heads = config.integer("n_embd", 768), config.integer("n_head", 12)
        if n_heads < 1 or d_model < 1 or d_model % n_heads:
            raise ValueError(
                f"config.json of {config.source} has impossible sizes: n_embd {d_model}, n_head {n_heads}; "
                "the first has to be a multiple of the second"
            )
        vocab_size = config.integer("vocab_size", 50257)
        bos = config.optional_integer("bos_token_id", 50256)
        activation = config.text("activation_function", "gelu_new")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation_function {activation!r} of {config.source} is not supported; "
                f"supported are {', '.join(ACTIVATIONS)}"
            )
        config.flag("reorder_and_upcast_attn", False)  # another order of the same arithmetic
        n_inner = config.optional_integer("n_inner")
        return Architecture(
            family=self.name,
            n_layers=config.integer("n_layer", 12),
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_model=d_model,
            d_head=d_model // n_heads,
            d_mlp=4 * d_model if n_inner is None else n_inner,
            vocab_size=vocab_size,
            n_ctx=config.integer("n_positions", 1024),
            bos_token_id=bos if bos is not None and 0 <= bos < vocab_size else None,
            tied=config.flag("tie_word_embeddings", True),
            norm=Norm(kind="layer", eps=config.number("layer_norm_epsilon", 1e-5)),
            activation=activation,
            score_width=d_model // n_heads if config.flag("scale_attn_weights", True) else None,
            scale_by_layer=config.flag("scale_attn_by_inverse_layer_idx", False),
        )

    def shapes(self, architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
        """See `Family.shapes`."""
        a = architecture
        yield self.embedding, (a.vocab_size, a.d_model)
        yield POSITIONS, (a.n_ctx, a.d_model)
        for kind in ("weight", "bias"):
            yield f"ln_f.{kind}", (a.d_model,)
        for layer in range(a.n_layers):
            for norm in ("ln_1", "ln_2"):
                for kind in ("weight", "bias"):
                    yield f"h.{layer}.{norm}.{kind}", (a.d_model,)
            for block, inside, outside in (
                ("attn.c_attn", a.d_model, 3 * a.d_model),
                ("attn.c_proj", a.d_model, a.d_model),
                ("mlp.c_fc", a.d_model, a.d_mlp),
                ("mlp.c_proj", a.d_mlp, a.d_model),
            ):
                yield f"h.{layer}.{block}.weight", (inside, outside)
                yield f"h.{layer}.{block}.bias", (outside,)

    def query_key(self, weights: Weights, layer: int) -> QueryKeyWeights:
        """See `Family.query_key`."""
        queries, keys, _ = self._fused(weights, layer)
        return QueryKeyWeights(self._norm(weights, f"h.{layer}.ln_1"), queries, keys)

    def value_output(self, weights: Weights, layer: int) -> ValueOutputWeights:
        """See `Family.value_output`."""
        *_, values = self._fused(weights, layer)
        return ValueOutputWeights(values, self._projection(weights, f"h.{layer}.attn.c_proj"))

    def mlp(self, weights: Weights, layer: int) -> MlpWeights:
        """See `Family.mlp`."""
        return MlpWeights(
            self._norm(weights, f"h.{layer}.ln_2"),
            self._projection(weights, f"h.{layer}.mlp.c_fc"),
            self._projection(weights, f"h.{layer}.mlp.c_proj"),
        )

    def final_norm(self, weights: Weights) -> NormWeights:
        """See `Family.final_norm`."""
        return self._norm(weights, "ln_f")

    def _fused(self, weights: Weights, layer: int) -> list[Projection]:
        fused = self._projection(weights, f"h.{layer}.attn.c_attn")
        assert fused.bias_P is not None
        parts = zip(np.split(fused.weight_DP, 3, axis=1), np.split(fused.bias_P, 3), strict=True)
        return [Projection(weight_DP, bias_P) for weight_DP, bias_P in parts]

    def _norm(self, weights: Weights, name: str) -> NormWeights:
        return NormWeights(weights.architecture.norm, weights.tensor(f"{name}.weight"), weights.tensor(f"{name}.bias"))

    def _projection(self, weights: Weights, name: str) -> Projection:
        return Projection(weights.tensor(f"{name}.weight"), weights.tensor(f"{name}.bias"))
