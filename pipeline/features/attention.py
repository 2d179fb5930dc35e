"""A layer's attention on text as a dictionary of its heads reads it: patterns, values and their mixtures z.

Everything is float64, one window after the other, from the residual stream that enters the layer.

    z[n, h] = sum_i A_h[n, i] v_h[i],  v = norm(x) W_V + b_V

Value biases go through attention unchanged, since its rows sum to 1: z of a model whose value biases are folded into
the output bias, as TransformerLens loads models, is z - (b_V + beta W_V), beta the bias of the layer's norm.

Shapes: W windows, T positions, D model, N query heads, M key heads, H head dimension, X = N H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights, bias_of, layer_weights, unturned
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.layers import capped, standardised
from qkatlas.pipeline.models.reach import reach
from qkatlas.pipeline.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class LayerHeads:
    """All heads of a layer.

    Attributes:
        scores: what gives queries and keys, those of a key head once for each query head that reads it.
        w_v_DX, b_v_X: projection to values, float64, likewise once for each query head.
        n_heads: N.
        window: positions that the layer reads; None = all.
    """

    scores: HeadWeights
    w_v_DX: np.ndarray
    b_v_X: np.ndarray
    n_heads: int
    window: int | None

    @classmethod
    def of(cls, weights: Weights, layer: int) -> LayerHeads:
        """Those of a layer.

        Args:
            weights: the model.
            layer: the layer, from 0.
        """
        a = weights.architecture
        values = family_of(a).value_output(weights, layer).values
        head_N = np.arange(a.n_heads) // (a.n_heads // a.n_kv_heads)
        columns_X = (head_N[:, None] * a.d_head + np.arange(a.d_head)).ravel()
        return cls(
            scores=layer_weights(weights, layer),
            w_v_DX=np.ascontiguousarray(values.weight_DP[:, columns_X], dtype=np.float64),
            b_v_X=bias_of(values, columns_X).astype(np.float64),
            n_heads=a.n_heads,
            window=a.window_of(layer),
        )

    def constant(self) -> torch.Tensor:
        """What of z is the same everywhere and is folded away: b_V + beta W_V, float64 [X]."""
        return torch.from_numpy(self.b_v_X) + torch.from_numpy(self.scores.shift_D) @ torch.from_numpy(self.w_v_DX)

    def values(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Values of what enters the layer, float64 [T, X]."""
        of = self.scores
        shift_D = torch.from_numpy(of.shift_D) if of.norm.kind == "layer" else None
        normed_TD = standardised(x_TD, of.norm, torch.from_numpy(of.gain_D), shift_D)
        return torch.addmm(torch.from_numpy(self.b_v_X), normed_TD, torch.from_numpy(self.w_v_DX))

    def patterns(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Attention of every head, float64 [N, T, T], query by key.

        Args:
            x_TD: float64 [T, D], what enters the layer at positions 0 to T - 1.
        """
        of = self.scores
        length = len(x_TD)
        query_NTH, key_NTH = (part.reshape(length, self.n_heads, -1).transpose(0, 1) for part in unturned(of, x_TD))
        if of.rotary is not None:
            position_T = np.arange(length, dtype=np.float64)
            query_NTH, key_NTH = (of.rotary.turn(part, position_T) for part in (query_NTH, key_NTH))
        scores_NTT = capped(query_NTH @ key_NTH.transpose(1, 2) * of.scale, of.cap)
        return scores_NTT.masked_fill(~reach(length, self.window), -torch.inf).softmax(dim=2)

    def mixed(self, stream_WTD: np.ndarray, *, threads: int) -> torch.Tensor:
        """Mixed values z of windows of text, float64 [W, T, X].

        Args:
            stream_WTD: float [W, T, D], what enters the layer.
            threads: threads to use; no number depends on it.
        """
        windows, length, _ = stream_WTD.shape
        found_WTX = torch.empty((windows, length, len(self.b_v_X)), dtype=torch.float64)

        def mix(rows: slice) -> None:
            for window in range(rows.start, rows.stop):
                x_TD = torch.from_numpy(stream_WTD[window].astype(np.float64))
                found_WTX[window] = mixed_values(self.patterns(x_TD), self.values(x_TD))

        for_blocks(windows, mix, threads, 1)
        return found_WTX


def mixed_values(pattern_NTT: torch.Tensor, value_TX: torch.Tensor) -> torch.Tensor:
    """Values mixed by each head's attention, float64 [T, X]."""
    heads, length, _ = pattern_NTT.shape
    value_NTH = value_TX.reshape(length, heads, -1).transpose(0, 1)
    return (pattern_NTT @ value_NTH).transpose(0, 1).reshape(length, -1)
