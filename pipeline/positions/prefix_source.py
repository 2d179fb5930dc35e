"""A head under rotary positions, taken apart by means over all tokens behind a prefix.

Shapes: V vocabulary, D model, T positions, H width of a head, R queries or rows of a block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights, unturned
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.positions.decomposition import (
    Decomposition,
    Factors,
    Queries,
    factored,
    head_means,
    second_moment,
    turned_variance,
    weighted_moments,
)
from qkatlas.pipeline.positions.kinds import PREFIX
from qkatlas.pipeline.positions.means import HeadMeans
from qkatlas.pipeline.positions.windows import Windows

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def behind_prefix(
    weights: HeadWeights,
    a: Architecture,
    layer: int,
    states_VD: npt.NDArray[np.float32],
    weight_V: Float64Array,
    held: Windows,
    *,
    destination: int | None,
    threads: int,
) -> Decomposition:
    """Take a head apart by means over all tokens behind a prefix; positions are rotary.

    Args:
        weights: of the head.
        a: of the model.
        layer: the head's layer.
        states_VD: float32 [V, D], what enters the layer at each token.
        weight_V: float64 [V], weights of the tokens, which sum to 1.
        held: windows to compare with, in which a key counts as its token does behind the prefix.
        destination: the token whose query stands for all; None = the mean query.
        threads: threads to use; the result does not depend on it.
    """
    assert weights.rotary is not None, "learned positions are in the states"
    width = a.d_head
    query_VH, key_VH = (torch.empty((len(states_VD), width), dtype=torch.float64) for _ in range(2))

    def project(rows: slice) -> None:
        query_VH[rows], key_VH[rows] = unturned(weights, torch.from_numpy(states_VD[rows].astype(np.float64)))

    for_blocks(len(states_VD), project, threads)
    weight = torch.from_numpy(weight_V)
    length = held.tokens_BT.shape[1]

    def means_of(weight_V: torch.Tensor) -> HeadMeans:
        # Not a product, whose bits would depend on the number of threads.
        query_1H, key_1H = (
            (values_VH * weight_V[:, None]).sum(dim=0, keepdim=True) / weight_V.sum()
            for values_VH in (query_VH, key_VH)
        )
        return head_means(weights, a, layer, length, query_1H, key_1H)

    average = means_of(weight)
    even_V = torch.arange(len(weight_V)) % 2 == 0
    halves = means_of(weight * even_V), means_of(weight * ~even_V)
    own = None if destination is None else query_VH[destination][None]
    means = average if own is None else average.for_query(own)
    last = np.array([length - 1])
    query_1H = means.queries_at(last)
    share_1T = means.pattern(query_1H, last)
    deviation_VH = key_VH - average.key_TH
    ln_f_V = means.content(query_1H, share_1T, last, deviation_VH)[0].numpy()
    second_HH = second_moment(factored(means, deviation_VH), weight)
    known = np.flatnonzero(weight_V > 0)
    mean, std = weighted_moments(np.exp(ln_f_V), weight_V)

    def content(
        b: int, query_RH: torch.Tensor, share_RT: torch.Tensor, n_R: IntArray, kappa_RT: torch.Tensor
    ) -> torch.Tensor:
        return means.content(query_RH, share_RT, n_R, deviation_VH[torch.from_numpy(held.tokens_BT[b])])

    return Decomposition(
        source=PREFIX,
        means=means,
        average=average,
        halves=halves if own is None else (halves[0].for_query(own), halves[1].for_query(own)),
        factors=Factors(
            token_ids_X=known,
            ln_f_X=ln_f_V[known],
            mean=mean,
            std=std,
            variance=turned_variance(means, query_1H, share_1T, second_HH),
        ),
        queries=Queries(
            token_ids_X=known,
            weight_X=weight_V[known],
            of_rows=lambda rows: query_VH[torch.from_numpy(known[rows])],
        ),
        content=content,
    )
