"""How far attention rests on a repeated prefix: attention to one place, and the same with a prefix corrupted.

On natural text, where a head gives a key, not BOS, over 0.3 of its attention, the tokens up to the query are compared
with those before the key: as far as they agree, case and leading spaces left aside, is the length of the prefix. Where
that is two tokens or more, the token before the query's own is replaced, so that a prefix of one token is left.

Shapes: P passages, T positions, L layers, N heads of a layer, X examples, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.text import streams

LEAST_ATTENTION = 0.3
"""Attention that a key needs to count; the published threshold."""

LONGEST = 9
"""Longest prefix that is told apart; longer ones count as this."""

CORRUPTED_PER_WINDOW = 8
"""Queries of a window that are read again with a corrupted prefix: those that most heads look from."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Queries of heads that give one key much attention, one entry each.

    Attributes:
        rows: int64 [X, 6]: passage, layer, head, query, key, length of the prefix.
        before_X: float64, attention.
        after_X: float64, attention with the prefix corrupted; NaN where it was not.
    """

    rows: IntArray
    before_X: npt.NDArray[np.float64]
    after_X: npt.NDArray[np.float64]


def patterns_of(model: Forward, tokens_PT: IntArray) -> torch.Tensor:
    """Attention of every head, float32 [P, L, N, T, T]."""
    found: dict[int, torch.Tensor] = {}

    def keep(layer: int, pattern_PNTT: torch.Tensor) -> None:
        found[layer] = pattern_PNTT

    layers = range(model.architecture.n_layers)
    hooks = {f"blocks.{layer}.attn.hook_pattern": lambda pattern, layer=layer: keep(layer, pattern) for layer in layers}
    model.go_on(model.run(tokens_PT, {}, stop_at_layer=0), 0, hooks)
    return torch.stack([found[layer] for layer in layers], dim=1)


def attention_between(model: Forward, tokens_PT: IntArray, query: int, key: int) -> np.ndarray:
    """Attention of every head from one position to another, float64 [P, L, N]."""
    return patterns_of(model, tokens_PT)[..., query, key].double().cpu().numpy()


def prefix_lengths(alike_T: IntArray) -> IntArray:
    """Tokens that agree before a query's next and before a key, int64 [T, T] over (query, key); BOS agrees with none.

    Args:
        alike_T: int64 [T], a number for each token; tokens that count as the same have one number.
    """
    length = len(alike_T)
    lengths_TT = np.zeros((length, length), np.int64)
    for query in range(1, length):
        # The query's own token is to agree with the one before the key.
        agrees_K = alike_T[query] == alike_T[:query]
        lengths_TT[query, 2 : query + 1] = np.where(agrees_K[1:], 1 + lengths_TT[query - 1, 1:query], 0)
    return lengths_TT


def text_examples(
    model: Forward, tokens_PT: IntArray, alike_V: IntArray, ordinary: IntArray, *, seed: int, first: int
) -> Examples:
    """The examples of some windows of text.

    Args:
        model: the model.
        tokens_PT: int64 [P, T], the windows, each after BOS.
        alike_V: int64, a number for each token; tokens that count as the same have one number.
        ordinary: ids that corrupted prefixes are drawn from.
        seed: of these draws.
        first: number of the first window.
    """
    rows, before, after = [], [], []
    for passage, tokens_T in enumerate(tokens_PT):
        pattern = patterns_of(model, tokens_T[None])[0].double().cpu().numpy()
        pattern[..., 0] = 0.0
        key_LNT = pattern.argmax(axis=3)
        most_LNT = np.take_along_axis(pattern, key_LNT[..., None], axis=3)[..., 0]
        layer_X, head_X, query_X = np.nonzero(most_LNT > LEAST_ATTENTION)
        key_X = key_LNT[layer_X, head_X, query_X]
        length_X = prefix_lengths(alike_V[tokens_T])[query_X, key_X]
        after_X = np.full(len(key_X), np.nan)
        # In the corrupted window neither the key nor what stands before it may be what is replaced.
        able_X = (length_X > 1) & (key_X < query_X - 1)
        queries, times = np.unique(query_X[able_X], return_counts=True)
        chosen = queries[np.argsort(-times, kind="stable")[:CORRUPTED_PER_WINDOW]]
        rng = streams.CORRUPTED.generator(seed, first + passage)
        for query in chosen.tolist():
            corrupted_T = tokens_T[: query + 1].copy()
            others = ordinary[alike_V[ordinary] != alike_V[tokens_T[query - 1]]]
            corrupted_T[query - 1] = rng.choice(others)
            row_LNT = patterns_of(model, corrupted_T[None])[0, :, :, query].double().cpu().numpy()
            here_X = able_X & (query_X == query)
            after_X[here_X] = row_LNT[layer_X[here_X], head_X[here_X], key_X[here_X]]
        number_X = np.full(len(key_X), first + passage)
        rows.append(np.stack([number_X, layer_X, head_X, query_X, key_X, np.minimum(length_X, LONGEST)], axis=1))
        before.append(most_LNT[layer_X, head_X, query_X])
        after.append(after_X)
    return Examples(np.concatenate(rows), np.concatenate(before), np.concatenate(after))
