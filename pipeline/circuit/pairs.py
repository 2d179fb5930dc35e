"""How well heads attend to some keys and not to others, in standard deviations of a row, beside random words.

    margin = min over pairs of z(a, b) where a should attend to b, and of -z(a, b) where it should not
    z(a, b) = (S[a, b] - mean of row a) / standard deviation of row a

So the margin is that of the worst pair. The difference of both kinds would rank a head first that merely turns away
from the tokens themselves. A row's moments are over the keys of a background: the whole vocabulary, or a sample of it.
Scores that a model caps are taken before the cap, which keeps their order.

Shapes: S states, B background keys, P pairs, T random tuples, N heads of a layer, H head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.circuit.projection import HeadInputs

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PairRows:
    """Which rows of a layer's states are meant.

    Attributes:
        background_B: rows of the background's keys.
        pairs_P2: query and key of each pair.
        random_TP2: the same for random words in place of those of the pairs.
        wanted_P: 1 where the query should attend to the key, -1 where it should not.
    """

    background_B: IntArray
    pairs_P2: IntArray
    random_TP2: IntArray
    wanted_P: Float64Array


@dataclass(frozen=True, kw_only=True)
class Margins:
    """What the heads of a layer make of the pairs.

    Attributes:
        z_NP: z of each pair.
        percentile_NP: share of the background's keys with a lower score than the pair's, 0 to 1.
        margin_N: the least of z where it is wanted and -z where it is not.
        random_NT: margins of the random tuples.
    """

    z_NP: Float64Array
    percentile_NP: Float64Array
    margin_N: Float64Array
    random_NT: Float64Array


def margins(inputs: HeadInputs, rows: PairRows, n_heads: int) -> Margins:
    """Margins of some heads side by side.

    Args:
        inputs: queries and keys of all heads for the states, one head's H columns after the other's.
        rows: which states are meant.
        n_heads: N.
    """
    heads = zip(np.split(inputs.queries_VH, n_heads, axis=1), np.split(inputs.keys_VH, n_heads, axis=1), strict=True)
    found = [_of_head(queries_SH.astype(np.float64), keys_SH.astype(np.float64), rows) for queries_SH, keys_SH in heads]
    z_NP, percentile_NP, random_NT = (np.stack(values) for values in zip(*found, strict=True))
    return Margins(
        z_NP=z_NP,
        percentile_NP=percentile_NP,
        margin_N=(rows.wanted_P * z_NP).min(axis=1),
        random_NT=random_NT,
    )


def _of_head(
    queries_SH: Float64Array, keys_SH: Float64Array, rows: PairRows
) -> tuple[Float64Array, Float64Array, Float64Array]:
    background_BH = keys_SH[rows.background_B]
    mean_H = background_BH.mean(axis=0)
    covariance_HH = (background_BH - mean_H).T @ (background_BH - mean_H) / len(background_BH)
    # Row moments in closed form, for every row that is some pair's query.
    asked_R, place = np.unique(
        np.concatenate([rows.pairs_P2[:, 0], rows.random_TP2[..., 0].ravel()]), return_inverse=True
    )
    query_RH = queries_SH[asked_R]
    mean_R = query_RH @ mean_H
    std_R = np.sqrt(np.maximum(((query_RH @ covariance_HH) * query_RH).sum(axis=1), 0.0))

    def z(pairs_X2: IntArray, at_X: IntArray) -> Float64Array:
        score_X = (query_RH[at_X] * keys_SH[pairs_X2[:, 1]]).sum(axis=1)
        std_X = std_R[at_X]
        z_X: Float64Array = np.divide(score_X - mean_R[at_X], std_X, out=np.zeros_like(score_X), where=std_X > 0)
        return z_X

    count = len(rows.pairs_P2)
    z_P = z(rows.pairs_P2, place[:count])
    z_TP = z(rows.random_TP2.reshape(-1, 2), place[count:]).reshape(rows.random_TP2.shape[:2])
    scores_PB = query_RH[place[:count]] @ background_BH.T
    own_P1 = (query_RH[place[:count]] * keys_SH[rows.pairs_P2[:, 1]]).sum(axis=1)[:, None]
    return z_P, (scores_PB < own_P1).mean(axis=1), (rows.wanted_P * z_TP).min(axis=1)
