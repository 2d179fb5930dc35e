"""Transformer blocks of the planted checkpoint: attention, MLP and LayerNorm tensors of one layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkatlas.pipeline.planted.codes import (
    CATEGORY,
    CATEGORY_SEED,
    MLP_GAIN,
    MLP_THRESHOLD,
    STREAM_NORM,
    Array,
    Codes,
    Subspaces,
)
from qkatlas.pipeline.planted.heads import HeadCircuit

Float32 = NDArray[np.float32]

LAYER_NORM_SPREAD = 0.6  # LayerNorm weights lie in 1 +- this
HEAD_WRITE = 0.02  # norm of a random head's output relative to the residual stream
MLP_WRITE = 0.03  # the same for the random neurons of an MLP block
RANDOM_SCORES = (0.5, 2.5)  # range of the standard deviation of a random head's scores, nats


@dataclass(frozen=True, kw_only=True)
class BlockWriter:
    """Turns circuits on normalised states into the tensors of a GPT-2 block."""

    spaces: Subspaces
    codes: Codes
    d_model: int
    n_head: int
    rng: np.random.Generator

    @property
    def d_head(self) -> int:
        """H."""
        return self.d_model // self.n_head

    def layer_norm(self) -> tuple[Float32, Float32]:
        """Random weight and bias [D], far from the identity, so that a missing fold shows."""
        weight = self.rng.uniform(1.0 - LAYER_NORM_SPREAD, 1.0 + LAYER_NORM_SPREAD, self.d_model)
        return weight.astype(np.float32), (0.2 * self.rng.standard_normal(self.d_model)).astype(np.float32)

    def layer(self, layer: int, *, circuits: dict[int, HeadCircuit], copying: list[int]) -> dict[str, Float32]:
        """Writes one block.

        Args:
            layer: index; layer 0's MLP holds the category neurons.
            circuits: head index -> planted circuit; every other head is random.
            copying: heads whose output is the attended token's J code, written to Jp.

        Returns:
            Tensors by Hugging Face name.
        """
        ln_1, ln_2 = self.layer_norm(), self.layer_norm()
        prefix = f"transformer.h.{layer}."
        parts = {"ln_1.weight": ln_1[0], "ln_1.bias": ln_1[1], "ln_2.weight": ln_2[0], "ln_2.bias": ln_2[1]}
        parts |= self._attention(ln_1, circuits=circuits, copying=copying)
        parts |= self._mlp(ln_2, with_categories=layer == 0)
        return {prefix + name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in parts.items()}

    def _gauss(self, *shape: int) -> Float32:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def _to_filler(self, n_inputs: int, norm: float) -> Float32:
        """Random rows [n_inputs, D] of about this norm that write into the filler alone."""
        filler = self.spaces.filler.astype(np.float32)
        return self._gauss(n_inputs, len(filler)) @ filler * np.float32(norm / np.sqrt(len(filler)))

    def _attention(
        self, ln: tuple[Float32, Float32], *, circuits: dict[int, HeadCircuit], copying: list[int]
    ) -> dict[str, Float32]:
        d_model, d_head = self.d_model, self.d_head
        qkv = self._gauss(d_model, 3, self.n_head, d_head)
        bias = self._gauss(3, self.n_head, d_head)
        # q . k / sqrt(H) of normalised states has standard deviation D sigma^2.
        spreads = self.rng.uniform(*RANDOM_SCORES, self.n_head)
        qkv[:, :2] *= np.sqrt(spreads / d_model).astype(np.float32)[:, None]
        qkv[:, 2] /= np.float32(np.sqrt(d_model))
        bias[:2] *= 0.5
        bias[2] *= 0.1
        output = self._to_filler(d_model, HEAD_WRITE * STREAM_NORM / np.sqrt(d_head)).reshape(
            self.n_head, d_head, d_model
        )
        for head, circuit in circuits.items():
            for part, weight, offset in ((0, circuit.w_q, circuit.b_q), (1, circuit.w_k, circuit.b_k)):
                qkv[:, part, head], bias[part, head] = _unfold(weight, offset, ln)
        for head in copying:
            n = len(self.spaces.token)
            values = np.zeros((d_model, d_head))
            values[:, :n] = self.spaces.token.T
            qkv[:, 2, head], bias[2, head] = _unfold(values, np.zeros(d_head), ln)
            output[head] = 0.0
            # The copy is as long as the original, before LayerNorm.
            output[head, :n] = self.spaces.previous * (STREAM_NORM / np.sqrt(d_model))
        return {
            "attn.c_attn.weight": qkv.reshape(d_model, 3 * d_model),
            "attn.c_attn.bias": bias.reshape(3 * d_model),
            "attn.c_proj.weight": output.reshape(d_model, d_model),
            "attn.c_proj.bias": self._to_filler(1, HEAD_WRITE * STREAM_NORM)[0],
        }

    def _mlp(self, ln: tuple[Float32, Float32], *, with_categories: bool) -> dict[str, Float32]:
        n_neurons = 4 * self.d_model
        read = self._gauss(self.d_model, n_neurons) / np.float32(np.sqrt(self.d_model))
        bias = np.float32(0.3) * self._gauss(n_neurons)
        write = self._to_filler(n_neurons, MLP_WRITE * STREAM_NORM / (0.6 * np.sqrt(n_neurons)))
        if with_categories:
            n = len(self.codes.category)
            # Amplitude of a category word's C0 part after LayerNorm; W_E alone has the norm without C.
            embedding_norm = np.sqrt(STREAM_NORM**2 - CATEGORY**2)
            amplitude = CATEGORY_SEED * np.sqrt(self.d_model) / embedding_norm
            weight = self.spaces.category_seed.T * (MLP_GAIN / amplitude)
            neurons = self.rng.permutation(n_neurons)[:n]
            read[:, neurons], bias[neurons] = _unfold(weight, np.full(n, -MLP_GAIN * MLP_THRESHOLD), ln)
            write[neurons] = (
                self.codes.category @ self.spaces.category * (CATEGORY / (MLP_GAIN * (1.0 - MLP_THRESHOLD)))
            )
        return {
            "mlp.c_fc.weight": read,
            "mlp.c_fc.bias": bias,
            "mlp.c_proj.weight": write,
            "mlp.c_proj.bias": self._to_filler(1, MLP_WRITE * STREAM_NORM)[0],
        }


def _unfold(weight: Array, bias: Array, ln: tuple[Float32, Float32]) -> tuple[Array, Array]:
    """Weights that, after this LayerNorm's weight and bias, act like `weight` and `bias` on normalised states."""
    gain, shift = ln[0].astype(np.float64), ln[1].astype(np.float64)
    unfolded = (weight / gain[:, None]).astype(np.float32)
    return unfolded.astype(np.float64), bias - shift @ unfolded
