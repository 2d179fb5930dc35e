"""Fidelity on text: how well scores from token states alone predict every head's real ones on passages of text.

Shapes: B passages, T positions of each, U distinct tokens, D model, L layers, N query heads of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.states import States
from qkatlas.pipeline.circuit.text_streams import TextStreams
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.models.weights import Weights
from qkatlas.pipeline.passes.fidelity import LayerProjection, row_figures, row_sums, rows_of

BLOCK_PASSAGES = 16
"""Passages in one block; fixed, as the rows of a block of tokens are."""


def text_fidelity(
    weights: Weights, tokens_BT: npt.NDArray[np.int64], states: Mapping[str, States], *, threads: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Compare the scores of several kinds of states with the model's own on some passages, layer by layer.

    The measure is that of `row_figures`: within each query's row its mean taken away, at the true offsets, and what
    stands first in a passage left out as a key, for attention that rests there tells nothing of tokens.

    Args:
        weights: the model.
        tokens_BT: int64 [B, T], the passages, each read from its first position on.
        states: by name, of the sorted distinct tokens of the passages, in front of layer 0.
        threads: threads to use; no figure depends on it.

    Returns:
        For each name float64 [L, N], the correlation; NaN where nothing varies, or the states give no finite scores.
    """
    a = weights.architecture
    places_BT = rows_of(np.unique(tokens_BT).tolist(), tokens_BT)
    streams = TextStreams(weights, tokens_BT, threads=threads)
    found = {name: np.full((a.n_layers, a.n_heads), np.nan) for name in states}
    for layer in range(a.n_layers):
        stream_RD = streams.stream_BTD.reshape(-1, a.d_model)
        real = LayerProjection.of(weights, layer, stream_RD, threads=threads)
        projections: dict[str, LayerProjection] = {}
        for name, of_name in states.items():
            try:
                projections[name] = LayerProjection.of(weights, layer, of_name.advance_to(layer), threads=threads)
            except ValueError:  # beyond float32: no score, and no fidelity
                continue
        sums = _layer_sums(real, projections, places_BT, a.window_of(layer), threads)
        for name, sums_N6 in sums.items():
            found[name][layer] = row_figures(sums_N6)["correlation"]
        if layer + 1 < a.n_layers:
            streams.advance()
    return found


def _layer_sums(
    real: LayerProjection,
    guesses: Mapping[str, LayerProjection],
    places_BT: torch.Tensor,
    window: int | None,
    threads: int,
) -> dict[str, npt.NDArray[np.float64]]:
    """Sums within rows of one layer, [N, 6] for each name; `real` has a query and a key for every position."""
    positions_BT = torch.arange(places_BT.numel()).reshape(places_BT.shape)
    blocks = -(-len(places_BT) // BLOCK_PASSAGES)
    sums = {name: np.empty((blocks, guess.queries_UNH.shape[1], 6)) for name, guess in guesses.items()}

    def compare(passages: slice) -> None:
        real_BNTT = real.scores(positions_BT[passages])
        for name, guess in guesses.items():
            guess_BNTT = guess.scores(places_BT[passages])
            sums[name][passages.start // BLOCK_PASSAGES] = row_sums(guess_BNTT, real_BNTT, window)

    for_blocks(len(places_BT), compare, threads, BLOCK_PASSAGES)
    return {name: sums_KN6.sum(axis=0) for name, sums_KN6 in sums.items()}
