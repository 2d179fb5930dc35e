"""The model's own residual stream on passages of text, taken from layer to layer.

Only one layer's weights are needed at a time, so that a model of any size can be run. Everything is computed in fixed
blocks of passages, each on one thread, as in `states`.

Shapes: B passages, T positions of each, D model, M key heads, H head dimension, R rows of one block, V tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from qkatlas.pipeline.circuit.states import embedded
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.family import UNEMBEDDING
from qkatlas.pipeline.models.layers import Attention, Context, Part, capped, mlp, norm
from qkatlas.pipeline.models.weights import Weights

BLOCK_PASSAGES = 64
"""Passages in one block; fixed, as the rows of a block of tokens are."""


BLOCK_POSITIONS = 4096
"""Positions of the passages that pass a layer together, where they may be long."""


class StreamsByLayer:
    """What enters one layer after another at the same passages; they go back to the first layer where one is passed.

    Args:
        weights: the model.
        tokens_BT: int64 [B, T], the passages.
    """

    def __init__(self, weights: Weights, tokens_BT: npt.NDArray[np.int64]) -> None:
        self._weights, self._tokens_BT = weights, tokens_BT
        self._streams: TextStreams | None = None

    def at(self, layer: int, *, threads: int) -> npt.NDArray[np.float32]:
        """What enters a layer, float32 [B, T, D]; a copy, for the streams go on in place.

        Args:
            layer: the layer.
            threads: threads to use; no number depends on it.
        """
        if self._streams is None or self._streams.layer > layer:
            block = max(1, BLOCK_POSITIONS // self._tokens_BT.shape[1])
            self._streams = TextStreams(self._weights, self._tokens_BT, threads=threads, block=block)
        while self._streams.layer < layer:
            self._streams.advance()
        return self._streams.stream_BTD.copy()


class TextStreams:
    """Passages of equal length, each read from its first position on.

    Attributes:
        layer: the layer that the streams enter.
        stream_BTD: float32 [B, T, D], the streams; changed in place from layer to layer.

    Args:
        weights: the model.
        tokens_BT: int64 [B, T], the passages.
        threads: threads to use; no number depends on it.
        block: passages in one block; a constant of the caller, smaller where passages are long.
    """

    def __init__(
        self, weights: Weights, tokens_BT: npt.NDArray[np.int64], *, threads: int, block: int = BLOCK_PASSAGES
    ) -> None:
        a = weights.architecture
        self.layer = 0
        self._weights, self._threads, self._block = weights, threads, block
        self._parallel, self._heads = a.parallel, (a.n_kv_heads, a.d_head)
        self.stream_BTD = embedded(weights, tokens_BT, slice(tokens_BT.shape[1]))

    def advance(self) -> None:
        """Go on to the next layer."""
        self.pass_layer(Attention(self._weights, self.layer), mlp(self._weights, self.layer))

    def pass_layer(self, attention: Attention, add_mlp: Part) -> Context:
        """Go on to the next layer.

        Args:
            attention: of the layer that the streams enter.
            add_mlp: its MLP.

        Returns:
            What a token behind each passage reads of it in this layer, [B, T, M, H].
        """
        shape = (*self.stream_BTD.shape[:2], *self._heads)
        contexts = Context(torch.empty(shape), torch.empty(shape))

        def pass_passages(rows: slice) -> None:
            x_BTD = torch.from_numpy(self.stream_BTD[rows])
            added_BTD, read = attention.within(x_BTD)
            contexts.keys[rows], contexts.values[rows] = read.keys, read.values
            x_RD = x_BTD.reshape(-1, x_BTD.shape[2])
            by_mlp_RD = add_mlp(x_RD) if self._parallel else None
            x_BTD += added_BTD
            x_RD += add_mlp(x_RD) if by_mlp_RD is None else by_mlp_RD

        for_blocks(len(self.stream_BTD), pass_passages, self._threads, self._block)
        self.layer += 1
        return contexts


def text_loss(weights: Weights, tokens_BT: npt.NDArray[np.int64], *, threads: int) -> float:
    """Mean next-token loss on passages, each read from its first position on.

    Args:
        weights: the model, with an unembedding.
        tokens_BT: int64 [B, T], the passages, of two tokens or more.
        threads: threads to use; the result does not depend on it.

    Returns:
        Nats a token; ln V is what guessing costs.
    """
    a, family = weights.architecture, family_of(weights.architecture)
    streams = TextStreams(weights, tokens_BT, threads=threads)
    for _ in range(a.n_layers):
        streams.advance()
    final = norm(family.final_norm(weights))
    unembedding_VD = torch.from_numpy(weights.tensor(family.embedding if a.tied else UNEMBEDDING))
    x_RD = streams.stream_BTD[:, :-1].reshape(-1, a.d_model)
    next_R = torch.from_numpy(tokens_BT[:, 1:].reshape(-1))
    loss_R = np.empty(len(x_RD))

    def read(rows: slice) -> None:
        logits_RV = (final(torch.from_numpy(x_RD[rows])) @ unembedding_VD.T).double()
        loss_R[rows] = functional.cross_entropy(capped(logits_RV, a.logit_cap), next_R[rows], reduction="none").numpy()

    for_blocks(len(x_RD), read, threads, BLOCK_PASSAGES)
    return float(loss_R.mean())
