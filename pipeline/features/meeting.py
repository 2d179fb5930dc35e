"""Features of a residual stream meet a head's tokens and each other, and real scores are taken apart.

Shapes: W windows, T positions, P = W (T - 1) positions without BOS, F features, V vocabulary, D model, H head
dimension, R rows, K keys, C parts of a state, Q pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights, head_inputs, unturned
from qkatlas.pipeline.features.on_text import DictionaryOnText, activations
from qkatlas.pipeline.features.qk import (
    ERROR,
    KEY,
    QUERY,
    TypicalScales,
    feature_vectors,
    side_parts,
    taken_apart,
)
from qkatlas.pipeline.models.blocks import on_one_thread
from qkatlas.pipeline.models.rotary import Offsets
from qkatlas.pipeline.scoring.engine import best_keys
from qkatlas.pipeline.scoring.rows import PreparedKeys

PAIRS = 64
"""Pairs of the text that are taken apart, evenly over windows, destinations and distances."""


@dataclass(frozen=True, kw_only=True)
class Met:
    """Best keys of some queries, and their scores: int32 and float32 [R, K]."""

    ids_RK: np.ndarray
    scores_RK: np.ndarray


def typical_scales(weights: HeadWeights, layer: DictionaryOnText, *, threads: int) -> TypicalScales:
    """What norms multiply states by on the text; see `TypicalScales`."""
    x_PD = activations(layer, threads=threads)
    return on_one_thread(lambda: TypicalScales.of(weights, x_PD))


def meet(
    weights: HeadWeights,
    layer: DictionaryOnText,
    states_VD: np.ndarray,
    typical: TypicalScales,
    *,
    offset: Offsets | None,
    kept: int,
    threads: int,
) -> Iterator[Met]:
    """Find the best keys of features among tokens, of tokens among features, and of features among features.

    Args:
        weights: of the head.
        layer: the dictionary on text.
        states_VD: float32 [V, D], every token's state in front of the layer.
        typical: scales of the norms.
        offset: positions from key to query, where the model turns them.
        kept: keys kept of each row, or as many as there are.
        threads: threads to use; no number depends on it.

    Yields:
        These three, in this order.
    """

    def vectors() -> list[np.ndarray]:
        written_FD = layer.encoder.written(slice(0, layer.config.d_sae))
        return [feature_vectors(weights, side, written_FD, typical, offset) for side in (QUERY, KEY)]

    queries_FH, keys_FH = on_one_thread(vectors)
    tokens = head_inputs(weights, states_VD, offset=offset, threads=threads)
    of_tokens, of_features = PreparedKeys(tokens.keys_VH), PreparedKeys(keys_FH)
    for rows_RH, keys in ((queries_FH, of_tokens), (tokens.queries_VH, of_features), (queries_FH, of_features)):
        ids_RK, dots_RK = best_keys(rows_RH, keys, k=min(kept, keys.vocabulary_size), threads=threads)
        scores_RK = (dots_RK.astype(np.float64) * weights.scale).astype(np.float32)
        yield Met(ids_RK=ids_RK, scores_RK=scores_RK)


def real_pairs(weights: HeadWeights, layer: DictionaryOnText, *, threads: int) -> dict[str, object]:
    """Take real scores of some pairs of the text apart, before the cap.

    Args:
        weights: of the head.
        layer: the dictionary on text.
        threads: threads to use; no number depends on it.

    Returns:
        Columns of `qk_heads`: pairs, gap, score_std, and the r2 of each kind of part.
    """
    x_PD = activations(layer, threads=threads)
    return on_one_thread(lambda: _taken_apart(weights, layer, x_PD))


def _taken_apart(weights: HeadWeights, layer: DictionaryOnText, x_PD: torch.Tensor) -> dict[str, object]:
    encoder = layer.encoder
    windows, length = layer.tokens_WT.shape
    limit_P = None if layer.limit_P is None else torch.from_numpy(layer.limit_P)
    drawn = [_pair(number, windows, length) for number in range(min(PAIRS, windows * (length - 1)))]
    parts, score_Q, gap = [], [], 0.0
    for window, n, i in drawn:
        at_n, at_i = (window * (length - 1) + position - 1 for position in (n, i))
        sides = []
        for side, row, position in ((QUERY, at_n, n), (KEY, at_i, i)):
            _, parts_CD = taken_apart(encoder, x_PD, row, limit_P)
            sides.append(side_parts(weights, side, x_PD[row], parts_CD, position))
        score_CC = sides[0] @ sides[1].T * weights.scale
        score = _score(weights, x_PD[at_n], x_PD[at_i], n, i)
        gap = max(gap, abs(float(score_CC.sum()) - score))
        of_features = score_CC[:-2, :-2].sum()
        with_error = score_CC[ERROR].sum() + score_CC[:, ERROR].sum() - score_CC[ERROR, ERROR]
        parts.append([float(of_features), float(score_CC.sum() - of_features - with_error), float(with_error)])
        score_Q.append(score)
    return {
        "pairs": len(drawn), "gap": gap, "score_std": float(np.std(score_Q)),
        **{name: _r2(np.array(parts)[:, number], np.array(score_Q))
           for number, name in enumerate(("features_r2", "bias_r2", "error_r2"))},
    }  # fmt: skip


def _pair(number: int, windows: int, length: int) -> tuple[int, int, int]:
    """Window, destination and source of a pair; BOS is neither."""
    n = 1 + number * 7919 % (length - 1)
    return number % windows, n, max(1, n - (number % 8))


def _score(weights: HeadWeights, query_D: torch.Tensor, key_D: torch.Tensor, n: int, i: int) -> float:
    """A real score before the cap, from the states themselves."""
    query_1H, key_1H = unturned(weights, query_D[None])[0], unturned(weights, key_D[None])[1]
    if weights.rotary is not None:
        query_1H, key_1H = (
            weights.rotary.turn(row_1H, np.array([position], np.float64))
            for row_1H, position in ((query_1H, n), (key_1H, i))
        )
    return float((query_1H @ key_1H.T).item() * weights.scale)


def _r2(part_Q: np.ndarray, score_Q: np.ndarray) -> float | None:
    """Squared correlation; None where one of both does not vary."""
    if not (part_Q.std() > 0 and score_Q.std() > 0):
        return None
    return float(np.corrcoef(part_Q, score_Q)[0, 1] ** 2)
