"""A head of layer 0 with learned positions, taken apart exactly by its weights.

Shapes: V vocabulary, D model, T positions, H width of a head, N heads, R queries or rows of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights, unturned
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.blocks import BLOCK_ROWS, for_blocks
from qkatlas.pipeline.positions.decomposition import (
    Decomposition,
    Factors,
    Queries,
    head_means,
    weighted_moments,
)
from qkatlas.pipeline.positions.embedded import Embedded, ExactKeys, mean_heads
from qkatlas.pipeline.positions.kinds import WEIGHTS
from qkatlas.pipeline.positions.means import HeadMeans
from qkatlas.pipeline.positions.windows import Windows

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def exact_means(
    weights: HeadWeights, a: Architecture, rows: Embedded, input_TD: Float64Array, *, destination: int | None
) -> tuple[HeadMeans, HeadMeans]:
    """Means of a head of layer 0 with learned positions: with the query that stands for all, and with the mean query.

    Args:
        weights: of the head.
        a: of the model.
        rows: what enters layer 0.
        input_TD: float64 [T, D], `Embedded.mean_input`.
        destination: the token whose query stands for all; None = the mean query.
    """
    query_TH, key_TH = mean_heads(weights, input_TD)
    average = head_means(weights, a, 0, len(input_TD), query_TH, key_TH)
    if destination is None:
        return average, average
    own_TD = torch.cat([rows.inputs_at([destination], n) for n in range(len(input_TD))])
    return average.for_query(unturned(weights, own_TD)[0]), average


def exact_factors(
    heads: Sequence[tuple[HeadWeights, HeadMeans]], rows: Embedded, weight_V: Float64Array, *, threads: int
) -> list[Factors]:
    """Content factors of the whole vocabulary in heads of layer 0 with learned positions, all in one pass.

    Args:
        heads: weights and means of each.
        rows: what enters layer 0.
        weight_V: float64 [V], weights of the tokens, which sum to 1.
        threads: threads to use; the result does not depend on it.
    """
    position_TD = rows.positions()
    ln_f_NV, square_NV = (np.empty((len(heads), len(weight_V))) for _ in range(2))
    fixed = []
    for _, means in heads:
        last = np.array([means.length - 1])
        query_1H = means.queries_at(last)
        fixed.append((query_1H, means.pattern(query_1H, last), means.kappa(query_1H, last)))

    def score(block: slice) -> None:
        token_RD = rows.tokens(block)
        inverse_RT = rows.inverse_scale(token_RD, position_TD)
        for number, ((weights, _), of_head) in enumerate(zip(heads, fixed, strict=True)):
            keys = ExactKeys.of(weights, token_RD, position_TD, inverse_RT)
            ln_f_NV[number, block] = keys.content(*of_head)[0]
            square_NV[number, block] = keys.square(*of_head)[0]

    for_blocks(len(weight_V), score, threads, BLOCK_ROWS)
    found = []
    known = np.flatnonzero(weight_V > 0)
    for ln_f_V, square_V in zip(ln_f_NV, square_NV, strict=True):
        mean, std = weighted_moments(np.exp(ln_f_V), weight_V)
        variance = float((weight_V * square_V).sum())  # the mean of c is 0, for it is taken from the mean key
        found.append(Factors(token_ids_X=known, ln_f_X=ln_f_V[known], mean=mean, std=std, variance=variance))
    return found


def from_weights(
    weights: HeadWeights,
    means: HeadMeans,
    average: HeadMeans,
    factors: Factors,
    rows: Embedded,
    weight_V: Float64Array,
    held: Windows,
) -> Decomposition:
    """Take a head of layer 0 with learned positions apart, exactly.

    Args:
        weights: of the head.
        means: with the query that stands for all.
        average: with the mean query.
        factors: content factors of the vocabulary.
        rows: what enters layer 0.
        weight_V: float64 [V], weights of the tokens.
        held: windows to compare with.
    """
    known = np.flatnonzero(weight_V > 0)
    position_TD = rows.positions()

    def content(
        b: int, query_RH: torch.Tensor, share_RT: torch.Tensor, n_R: IntArray, kappa_RT: torch.Tensor
    ) -> torch.Tensor:
        token_TD = rows.tokens(held.tokens_BT[b])
        keys = ExactKeys.of(weights, token_TD, position_TD, rows.inverse_scale(token_TD, position_TD))
        return keys.content(query_RH, share_RT, kappa_RT)

    def queries_of(block: slice) -> torch.Tensor:
        return unturned(weights, rows.inputs_at(known[block].tolist(), means.length - 1))[0]

    return Decomposition(
        source=WEIGHTS,
        means=means,
        average=average,
        halves=None,
        factors=factors,
        queries=Queries(token_ids_X=known, weight_X=weight_V[known], of_rows=queries_of),
        content=content,
    )
