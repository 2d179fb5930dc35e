"""What a decomposition says of a head in numbers: its row, its kernel, and how far both hold.

Shapes: O offsets, T positions, R rows of a block, X tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.models.blocks import BLOCK_ROWS, for_blocks
from qkatlas.pipeline.models.layers import capped
from qkatlas.pipeline.positions.comparison import Comparison, comparison_columns
from qkatlas.pipeline.positions.decomposition import Decomposition
from qkatlas.pipeline.positions.kernel import by_offset, kernel_measures, quarters, translation_invariance
from qkatlas.pipeline.positions.kinds import TEXT
from qkatlas.pipeline.positions.means import HeadMeans

Float64Array = npt.NDArray[np.float64]

DEVIANT = 5
"""Tokens that are named as those whose own kernel is furthest from the mean one."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel at the last position, BOS left out: the offsets that the head reaches.

    Attributes:
        score_O: positional part of the score, in nats, under the model's soft cap.
        share_O: share of attention.
        low_O, high_O: the least and the greatest share of the two halves that means are taken from.
    """

    score_O: Float64Array
    share_O: Float64Array
    low_O: Float64Array
    high_O: Float64Array

    @classmethod
    def of(cls, decomposition: Decomposition) -> Kernel:
        """That of the query that stands for all."""
        means = decomposition.means
        reach = min(means.length - 1, means.window or means.length)
        last = np.array([means.length - 1])
        score_1T = capped(means.kappa(means.queries_at(last), last), means.cap)
        share_O = shares_at_last(means)
        halves = [share_O] if decomposition.halves is None else [shares_at_last(half) for half in decomposition.halves]
        return cls(
            score_O=by_offset(score_1T[0].numpy(), means.length - 1)[:reach],
            share_O=share_O[:reach],
            low_O=np.min(halves, axis=0)[:reach],
            high_O=np.max(halves, axis=0)[:reach],
        )


def shares_at_last(means: HeadMeans) -> Float64Array:
    """Shares of a kernel at the last position by offset, float64 [T - 1]."""
    last = np.array([means.length - 1])
    return by_offset(means.pattern(means.queries_at(last), last)[0].numpy(), means.length - 1)


def head_columns(
    decomposition: Decomposition, kernel: Kernel, comparison: Comparison, *, threads: int
) -> dict[str, Any]:
    """All columns of a head but its class.

    Args:
        decomposition: of the head.
        kernel: of the same.
        comparison: with its real attention.
        threads: threads to use; the result does not depend on it.
    """
    means, factors, share_O = decomposition.means, decomposition.factors, kernel.share_O
    learned = means.rotary is None
    n_R = quarters(means.length)
    invariance = None
    if learned:
        invariance = translation_invariance(means.pattern(means.queries_at(n_R), n_R).numpy(), n_R)
    score_mean = share_O @ kernel.score_O
    of_kappa = float(share_O @ np.square(kernel.score_O - score_mean))
    both = factors.variance + of_kappa
    measured = comparison_columns(comparison)
    if learned and decomposition.source == TEXT:
        # What a key has beside its position's mean is all of the rest: the patterns are equal by construction.
        measured |= {"tv_factorised": None, "tv_factorised_p90": None, "kl_factorised": None}
    halves = decomposition.halves
    reliability = 1.0
    if halves is not None:
        reliability = 1 - 0.5 * float(np.abs(shares_at_last(halves[0]) - shares_at_last(halves[1])).sum())
    measures = kernel_measures(share_O)
    cv_model = factors.std / factors.mean / np.sqrt(float(measures["width"] or 1.0))
    return {
        "kind": "learned" if learned else "rotary",
        "source": decomposition.source,
        **measures,
        "translation_invariance": invariance,
        **_dependence(decomposition, threads=threads),
        "content_share": factors.variance / both if both > 0 else 0.0,
        "content_std": float(np.sqrt(factors.variance)),
        "denominator_cv_model": float(cv_model),
        **measured,
        "reliability": reliability,
    }


def _dependence(decomposition: Decomposition, *, threads: int) -> dict[str, Any]:
    """How far the kernel of a token's own query is from that of the mean query, in total variation."""
    average, queries = decomposition.average, decomposition.queries
    count = len(queries.token_ids_X)
    share_O = shares_at_last(average)
    distance_X = np.empty(count)

    def compare(rows: slice) -> None:
        query_RH = queries.of_rows(rows)
        last_R = np.full(len(query_RH), average.length - 1)
        own_RO = average.pattern(query_RH, last_R).numpy()[:, :0:-1]
        distance_X[rows] = 0.5 * np.abs(own_RO - share_O).sum(axis=1)

    for_blocks(count, compare, threads, BLOCK_ROWS)
    order = np.argsort(-distance_X, kind="stable")
    below_X = np.cumsum(queries.weight_X[order[::-1]])
    at = min(int(np.searchsorted(below_X, 0.9 * below_X[-1])), count - 1)
    return {
        "destination_dependence": float((distance_X * queries.weight_X).sum() / queries.weight_X.sum()),
        "destination_dependence_p90": float(distance_X[order[::-1]][at]),
        "deviant_tokens": [int(token) for token in queries.token_ids_X[order[:DEVIANT]]],
    }
