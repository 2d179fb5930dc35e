"""A head taken apart by means over windows of text.

Shapes: B windows, T positions, H width of a head, R queries, X tokens, or occurrences of tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.positions.decomposition import (
    Decomposition,
    Factors,
    Queries,
    factored,
    head_means,
    second_moment,
    turned_variance,
)
from qkatlas.pipeline.positions.kinds import TEXT
from qkatlas.pipeline.positions.means import HeadMeans
from qkatlas.pipeline.positions.windows import Windows

IntArray = npt.NDArray[np.int64]


def means_of_windows(weights: HeadWeights, a: Architecture, layer: int, windows: Windows) -> HeadMeans:
    """Means over windows: at each position where positions are learned, over all but BOS where they are rotary.

    Args:
        weights: of the head.
        a: of the model.
        layer: the head's layer.
        windows: what is averaged.
    """
    if weights.rotary is None:
        query_TH, key_TH = (values_BTH.mean(dim=0) for values_BTH in (windows.query_BTH, windows.key_BTH))
    else:
        query_TH, key_TH = (
            values_BTH[:, 1:].mean(dim=(0, 1))[None] for values_BTH in (windows.query_BTH, windows.key_BTH)
        )
    return head_means(weights, a, layer, windows.tokens_BT.shape[1], query_TH, key_TH)


def from_text(
    weights: HeadWeights, a: Architecture, layer: int, fitted: Windows, held: Windows, *, destination: int | None
) -> Decomposition:
    """Take a head apart by means over windows of text.

    What a key has beside the mean is its content, be it of the token or of what stands before it.

    Args:
        weights: of the head.
        a: of the model.
        layer: the head's layer.
        fitted: windows that means are taken from, an even number of them.
        held: windows to compare with.
        destination: the token whose query stands for all, which occurs in the windows; None = the mean query.
    """
    average = means_of_windows(weights, a, layer, fitted)
    half = len(fitted.tokens_BT) // 2
    halves = tuple(means_of_windows(weights, a, layer, fitted[part]) for part in (slice(half), slice(half, None)))
    every_T = np.arange(average.length)
    token_ids_X, inverse_X, counts_X = np.unique(fitted.tokens_BT[:, 1:], return_inverse=True, return_counts=True)
    beside_BTH = (fitted.query_BTH - average.queries_at(every_T))[:, 1:]
    query_XH = torch.zeros((len(token_ids_X), beside_BTH.shape[2]), dtype=torch.float64)
    query_XH.index_add_(0, torch.from_numpy(inverse_X.reshape(-1)), beside_BTH.reshape(-1, beside_BTH.shape[2]))
    query_XH /= torch.from_numpy(counts_X)[:, None]
    means, both = average, halves
    if destination is not None:
        own_H = query_XH[int(np.flatnonzero(token_ids_X == destination)[0])]
        means = average.for_query(average.query_TH + own_H)
        both = tuple(part.for_query(part.query_TH + own_H) for part in halves)

    last = np.array([means.length - 1])
    query_1H = means.queries_at(last)
    share_1T = means.pattern(query_1H, last)
    deviation_BTH = (fitted.key_BTH - average.keys_at(every_T))[:, 1:]
    ln_f = means.content(query_1H, share_1T, last, deviation_BTH.flatten(0, 1))[0].numpy()
    factors = Factors(
        token_ids_X=token_ids_X,
        ln_f_X=np.bincount(inverse_X.reshape(-1), weights=ln_f) / counts_X,
        mean=float(np.exp(ln_f).mean()),
        std=float(np.exp(ln_f).std()),
        variance=_variance_in_text(means, query_1H, share_1T, deviation_BTH),
    )
    at_last_H = average.queries_at(last)[0]

    def content(
        b: int, query_RH: torch.Tensor, share_RT: torch.Tensor, n_R: IntArray, kappa_RT: torch.Tensor
    ) -> torch.Tensor:
        return means.content(query_RH, share_RT, n_R, held.key_BTH[b] - average.keys_at(every_T))

    return Decomposition(
        source=TEXT,
        means=means,
        average=average,
        halves=(both[0], both[1]),
        factors=factors,
        queries=Queries(
            token_ids_X=token_ids_X, weight_X=counts_X / counts_X.sum(), of_rows=lambda rows: query_XH[rows] + at_last_H
        ),
        content=content,
    )


def _variance_in_text(
    means: HeadMeans, query_1H: torch.Tensor, share_1T: torch.Tensor, deviation_BTH: torch.Tensor
) -> float:
    """Variance of c over the pattern of a query and the keys of windows, without those at BOS."""
    count = len(deviation_BTH)
    if means.rotary is not None:
        deviation_XH = factored(means, deviation_BTH.flatten(0, 1))
        equal_X = torch.full((len(deviation_XH),), 1 / len(deviation_XH), dtype=torch.float64)
        return turned_variance(means, query_1H, share_1T, second_moment(deviation_XH, equal_X))
    c_BT = means.scale * (deviation_BTH * query_1H[0]).sum(dim=2)
    # A position's mean is taken from as many windows as its variance: one of them is no freedom.
    variance_T = c_BT.square().sum(dim=0) / max(1, count - 1)
    return float((share_1T[0, 1:] * variance_T).sum())
