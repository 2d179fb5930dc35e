"""Whether a head's strongest features are of one kind: their likeness in three views, beside random features.

The views are what features write (the angle of their logits), what they fire on (shares of source relations less
chance), and what they read (the angle of their encoders). The null is as many features of equal density: each is drawn
from those that stand near its own in the order of densities.

Shapes: F features, S features of a head that are compared, N draws, E numbers of a view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.text import streams

FEATURES = 10
"""Features of a head that are compared, S."""

DRAWS = 2000
"""Draws behind a null, N; its 99th percentile has 20 above it."""

LEVEL = 0.99

VIEWS = ("logit", "source", "encoder")

NEEDED = 2
"""Views that have to pass."""

_NEAR_SHARE, _NEAR_LEAST = 0.05, 40
"""How many features are near in density: so large a share of all, and so many at least."""

_TRIES = 100

_BLOCK_DRAWS = 100

_BLOCK_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """The likeness of some features in one view.

    Attributes:
        value: mean cosine of their pairs; NaN where fewer than two have a direction.
        null_mean, null_std, null_high: mean, standard deviation and 99th percentile of the null.
    """

    value: float
    null_mean: float
    null_std: float
    null_high: float

    @property
    def z(self) -> float:
        """Standard deviations from the null's mean; NaN where it does not vary."""
        return (self.value - self.null_mean) / self.null_std if self.null_std > 0 else float("nan")

    @property
    def passes(self) -> bool:
        """Whether it is over the null's 99th percentile."""
        return bool(self.value > self.null_high)


def unit_rows(rows_FE: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Rows as long as 1, float32; zero where they have no direction or hold NaN."""
    found_FE = np.empty(rows_FE.shape, np.float32)
    for start in range(0, len(rows_FE), _BLOCK_ROWS):  # in float64 a whole dictionary would be held several times
        rows = slice(start, start + _BLOCK_ROWS)
        finite_RE = np.nan_to_num(rows_FE[rows].astype(np.float64), nan=0.0)
        norm_R1 = np.linalg.norm(finite_RE, axis=1, keepdims=True)
        found_FE[rows] = finite_RE / np.where(norm_R1 > 0, norm_R1, 1.0)
    return found_FE


def equally_dense(
    chosen_S: npt.NDArray[np.int64], density_F: npt.NDArray[np.float64], *, draws: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Random features in place of some, each near its own in density, none of them twice in a draw.

    Args:
        chosen_S: the features that are replaced; none of them is drawn while there are enough others.
        density_F: float64 [F].
        draws: N.
        rng: where they come from.

    Returns:
        int64 [N, S].
    """
    count = len(density_F)
    order_F = np.lexsort((np.arange(count), density_F))
    others_F = order_F[~np.isin(order_F, chosen_S)]
    if len(others_F) < 2 * len(chosen_S):
        others_F = order_F
    near = min(len(others_F), max(_NEAR_LEAST, int(_NEAR_SHARE * count)))
    place_S = np.searchsorted(density_F[others_F], density_F[chosen_S], side="left")
    last_S = np.searchsorted(density_F[others_F], density_F[chosen_S], side="right")
    first_S = np.clip((place_S + last_S) // 2 - near // 2, 0, len(others_F) - near)
    drawn_NS = first_S + rng.integers(near, size=(draws, len(chosen_S)))
    for _ in range(_TRIES):
        sorted_NS = np.sort(drawn_NS, axis=1)
        twice_N = (sorted_NS[:, 1:] == sorted_NS[:, :-1]).any(axis=1)
        if not twice_N.any():
            break
        drawn_NS[twice_N] = first_S + rng.integers(near, size=(int(twice_N.sum()), len(chosen_S)))
    found: npt.NDArray[np.int64] = others_F[drawn_NS]
    return found


def likeness(
    unit_FE: npt.NDArray[np.float32], chosen_S: npt.NDArray[np.int64], null_NS: npt.NDArray[np.int64]
) -> Likeness:
    """How alike some features are in one view.

    Args:
        unit_FE: float32 [F, E], `unit_rows`.
        chosen_S: the features.
        null_NS: `equally_dense`.
    """
    blocks = range(0, len(null_NS), _BLOCK_DRAWS)
    null_N = np.concatenate([_mean_cosines(unit_FE, null_NS[start : start + _BLOCK_DRAWS]) for start in blocks])
    null_N = null_N[~np.isnan(null_N)]
    value = float(_mean_cosines(unit_FE, chosen_S[None])[0])
    if not len(null_N):
        return Likeness(value=value, null_mean=float("nan"), null_std=float("nan"), null_high=float("nan"))
    return Likeness(
        value=value,
        null_mean=float(null_N.mean()),
        null_std=float(null_N.std()),
        null_high=float(np.quantile(null_N, LEVEL)),
    )


def null_features(
    chosen_S: npt.NDArray[np.int64], density_F: npt.NDArray[np.float64], *, seed: int, layer: int, head: int
) -> npt.NDArray[np.int64]:
    """The draws of one head, int64 [N, S]; see `equally_dense`."""
    rng = streams.NULL_FEATURES.generator(seed, layer, head)
    return equally_dense(chosen_S, density_F, draws=DRAWS, rng=rng)


def _mean_cosines(unit_FE: npt.NDArray[np.float32], chosen_NS: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean cosine of the pairs of each row's features that have a direction, [N]; NaN of fewer than two."""
    unit_NSE = unit_FE[chosen_NS]
    alive_N = (unit_NSE != 0).any(axis=2).sum(axis=1).astype(np.float64)
    square_N = np.square(unit_NSE.sum(axis=1, dtype=np.float64)).sum(axis=1)
    found_N: npt.NDArray[np.float64] = (square_N - alive_N) / np.where(alive_N > 1, alive_N * (alive_N - 1), np.nan)
    return found_N
