"""Latents of a layer: independent components of its extended embeddings.

Principal components are weighted by how often tokens occur, and made of unit variance; FastICA then turns them until
they are as far from normal as they can be, on tokens that are drawn by the same weights. Of normal data every turn is
as good: what comes back from other tokens is a property of the embeddings, what does not is chance.

Shapes: V vocabulary, D model, K components, N drawn tokens, J neurons.

Source:
    Hyvarinen and Oja, Independent component analysis: algorithms and applications, 2000.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.neurons.extended import Moments
from qkatlas.pipeline.text import streams

Float64Array = npt.NDArray[np.float64]

COMPONENTS = 32
"""Components that are looked for at most."""

DRAWN = 16384
"""Tokens that are drawn for each time."""

AGAIN = 2
"""How often components are found again from other tokens."""

_SMALLEST = 1e-6
"""Variance of a principal component, relative to the largest, below which it is only rounding."""

_ROUNDS, _TOLERANCE = 200, 1e-4


@dataclass(frozen=True, kw_only=True)
class Components:
    """Independent components, the one with the largest share of the variance first.

    Attributes:
        value_VK: float64 [V, K], of every token; mean 0 and standard deviation 1 under the tokens' weights.
        direction_DK: float64 [D, K], what a component of 1 adds to the extended embedding.
        share_K: float64 [K], share of the variance of extended embeddings.
        kurtosis_K: float64 [K], excess kurtosis of the values under the weights; 0 if they are normal.
        stability_K: float64 [K], mean over the times that components were found again of the largest correlation, in
            size, with one of those.
    """

    value_VK: Float64Array
    direction_DK: Float64Array
    share_K: Float64Array
    kurtosis_K: Float64Array
    stability_K: Float64Array


def independent_components(
    extended_VD: npt.NDArray[np.float32], weight_V: Float64Array, moments: Moments, *, seed: int, layer: int
) -> Components | None:
    """Find independent components of extended embeddings; None where these do not vary.

    Args:
        extended_VD: float32 [V, D].
        weight_V: float64 [V], weights of the tokens, which sum to 1.
        moments: of the rows under these weights.
        seed: of everything drawn.
        layer: the layer.
    """
    from threadpoolctl import threadpool_limits

    # The last bits of a product may depend on how many threads share it.
    with threadpool_limits(1):
        variance_D, axis_DD = np.linalg.eigh(moments.covariance_DD)
        kept = np.flatnonzero(variance_D > max(_SMALLEST * variance_D[-1], 0.0))[::-1][:COMPONENTS]
        if not len(kept):
            return None
        axis_DK = axis_DD[:, kept]
        axis_DK = axis_DK * np.where(axis_DK.sum(axis=0) < 0, -1.0, 1.0)  # the sign of an axis is an accident
        spread_K = np.sqrt(variance_D[kept])
        white_VK = (extended_VD.astype(np.float64) - moments.mean_D) @ (axis_DK / spread_K)
        turns = [_turn(white_VK, weight_V, seed, layer, number) for number in range(1 + AGAIN)]
        own_KK = turns[0]
        value_VK = white_VK @ own_KK.T
        third_K = weight_V @ value_VK**3
        sign_K = np.where(third_K < 0, -1.0, 1.0)  # the longer tail is up
        own_KK, value_VK = own_KK * sign_K[:, None], value_VK * sign_K
        direction_DK = (axis_DK * spread_K) @ own_KK.T
        stability_K = np.mean([np.abs(own_KK @ other_KK.T).max(axis=1) for other_KK in turns[1:]], axis=0)
        share_K = np.square(direction_DK).sum(axis=0) / np.trace(moments.covariance_DD)
        kurtosis_K = weight_V @ value_VK**4 - 3
    order = np.argsort(-share_K, kind="stable")
    return Components(
        value_VK=value_VK[:, order],
        direction_DK=direction_DK[:, order],
        share_K=share_K[order],
        kurtosis_K=kurtosis_K[order],
        stability_K=stability_K[order],
    )


def _turn(white_VK: Float64Array, weight_V: Float64Array, seed: int, layer: int, number: int) -> Float64Array:
    """The orthogonal matrix [K, K] that FastICA finds from tokens that are drawn by their weights."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    rng = streams.LATENTS.generator(seed, layer, part=number)
    drawn_N = rng.choice(len(weight_V), DRAWN, p=weight_V)
    ica = FastICA(whiten=False, max_iter=_ROUNDS, tol=_TOLERANCE, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what did not settle is not stable, which is a column
        ica.fit(white_VK[drawn_N])
    # FastICA keeps turns of what it was given; those of a sample are orthogonal but for rounding.
    left_KK, _, right_KK = np.linalg.svd(ica.components_)
    found: Float64Array = left_KK @ right_KK
    return found
