"""A head taken apart into a part of positions and a part of content, from its weights, from text or behind a prefix.

Shapes: V vocabulary, D model, T positions, H width of a head, B windows, N heads, R queries or rows of a block, X
tokens, or occurrences of tokens in a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.blocks import BLOCK_ROWS
from qkatlas.pipeline.positions.comparison import Content
from qkatlas.pipeline.positions.means import HeadMeans

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Content factors under the query that stands for all, at the last position.

    Attributes:
        token_ids_X: int64 [X], tokens.
        ln_f_X: float64 [X], in nats; of a text's tokens the mean over their occurrences.
        mean, std: of the factors themselves, over all tokens by their weights, or over all occurrences.
        variance: of c over the pattern and the keys, nats^2.
    """

    token_ids_X: IntArray
    ln_f_X: Float64Array
    mean: float
    std: float
    variance: float


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries of tokens as they stand at the last position, to see how far the kernel depends on them.

    Attributes:
        token_ids_X: int64 [X].
        weight_X: float64 [X], how much each counts.
        of_rows: rows of tokens -> their queries, float64 [R, H], before they are turned.
    """

    token_ids_X: IntArray
    weight_X: Float64Array
    of_rows: Callable[[slice], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """One head, taken apart.

    Attributes:
        source: WEIGHTS, TEXT or PREFIX.
        means: with the query that stands for all.
        average: with the mean query, which is the same unless a destination was chosen.
        halves: the same from either half of what means were taken from; None where they are exact.
        factors: content factors of tokens.
        queries: of tokens.
        content: content factors of the keys of held-out windows.
    """

    source: str
    means: HeadMeans
    average: HeadMeans
    halves: tuple[HeadMeans, HeadMeans] | None
    factors: Factors
    queries: Queries
    content: Content


def head_means(
    weights: HeadWeights,
    a: Architecture,
    layer: int,
    length: int,
    query_TH: torch.Tensor,
    key_TH: torch.Tensor,
) -> HeadMeans:
    """Means of a head that scores as its weights say.

    Args:
        weights: of the head.
        a: of the model.
        layer: the head's layer.
        length: positions, T.
        query_TH: float64, mean queries, a row for each position or one for all.
        key_TH: float64, mean keys likewise.
    """
    return HeadMeans(
        key_TH=key_TH,
        query_TH=query_TH,
        length=length,
        scale=weights.scale,
        cap=weights.cap,
        rotary=weights.rotary,
        window=a.window_of(layer),
    )


def turned_variance(means: HeadMeans, query_1H: torch.Tensor, share_1T: torch.Tensor, second_HH: torch.Tensor) -> float:
    """Variance of c over the offsets of a pattern and keys of a second moment, in closed form."""
    assert means.rotary is not None
    offset_T = np.arange(means.length - 1, -1, -1, dtype=np.float64)
    query_TH = means.rotary.turn(query_1H.expand(means.length, -1), offset_T)
    return float(means.scale**2 * (share_1T[0] * ((query_TH @ second_HH) * query_TH).sum(dim=1)).sum())


def factored(means: HeadMeans, key_XH: torch.Tensor) -> torch.Tensor:
    """Keys with the factor that some rotary positions have."""
    assert means.rotary is not None
    return means.rotary.turn(key_XH, np.zeros(1))


def second_moment(values_XH: torch.Tensor, weight_X: torch.Tensor) -> torch.Tensor:
    """Weighted second moment [H, H], summed block by block."""
    second_HH = torch.zeros((values_XH.shape[1],) * 2, dtype=torch.float64)
    for start in range(0, len(values_XH), BLOCK_ROWS):
        part_RH = values_XH[start : start + BLOCK_ROWS]
        second_HH += (part_RH * weight_X[start : start + BLOCK_ROWS, None]).T @ part_RH
    return second_HH


def weighted_moments(values_X: Float64Array, weight_X: Float64Array) -> tuple[float, float]:
    """Weighted mean and standard deviation."""
    mean = float((values_X * weight_X).sum() / weight_X.sum())
    return mean, float(np.sqrt((np.square(values_X - mean) * weight_X).sum() / weight_X.sum()))
