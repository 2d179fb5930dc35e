"""How good an approximation of neurons is on a text, and how much of a neuron is of the document.

Shapes: J neurons, R places: of one window after the other, B windows of S places each, G draws of a group.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

_ROUNDING = 1e-20
"""A variance below this share of the mean square is only rounding: a constant has no correlation."""


def correlation(real_RJ: Float64Array, other_RJ: Float64Array) -> Float64Array:
    """Pearson's correlation of each column with the other's, float64 [J]; NaN where one does not vary."""
    a, b = (values - values.mean(axis=0) for values in (real_RJ, other_RJ))
    squares_J = np.square(a).sum(axis=0) * np.square(b).sum(axis=0)
    varies_J = _varies(real_RJ) & _varies(other_RJ)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(varies_J, (a * b).sum(axis=0) / np.sqrt(squares_J), np.nan)


def unexplained(real_RJ: Float64Array, other_RJ: Float64Array) -> Float64Array:
    """Fraction of variance unexplained: sum (real - other)^2 / sum (real - mean)^2; NaN where nothing varies.

    A constant offset and a wrong scale count as errors, so that it may be over 1.
    """
    error_J = np.square(real_RJ - other_RJ).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share_J = error_J / np.square(real_RJ - real_RJ.mean(axis=0)).sum(axis=0)
    return np.where(_varies(real_RJ), share_J, np.nan)


def _varies(values_RJ: Float64Array) -> npt.NDArray[np.bool_]:
    varies: npt.NDArray[np.bool_] = values_RJ.var(axis=0) > _ROUNDING * np.square(values_RJ).mean(axis=0)
    return varies


def kappa_of_signs(real_RJ: Float64Array, other_RJ: Float64Array) -> Float64Array:
    """Cohen's kappa of whether values are above 0, float64 [J]; NaN where both never change sign, and agree.

    Source:
        Cohen, A coefficient of agreement for nominal scales, 1960.
    """
    a, b = real_RJ > 0, other_RJ > 0
    same_J = (a == b).mean(axis=0)
    up_a, up_b = a.mean(axis=0), b.mean(axis=0)
    chance_J = up_a * up_b + (1 - up_a) * (1 - up_b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance_J < 1, (same_J - chance_J) / (1 - chance_J), np.nan)


def between_documents(values_RJ: Float64Array, windows: int) -> Float64Array:
    """Share of variance between windows, ICC(1): how much of a value is of the document it stands in.

    (MSB - MSW) / (MSB + (S - 1) MSW) with MSB and MSW the mean squares between and within windows; about 0 where the
    document says nothing, and below 0 by chance.

    Args:
        values_RJ: float64 [R, J], places of a window next to each other.
        windows: B, two at least, of two places at least.

    Returns:
        float64 [J]; NaN where nothing varies.

    Source:
        Shrout and Fleiss, Intraclass correlations, 1979.
    """
    values_BSJ = values_RJ.reshape(windows, -1, values_RJ.shape[1])
    places = values_BSJ.shape[1]
    mean_BJ = values_BSJ.mean(axis=1)
    between_J = places * np.square(mean_BJ - mean_BJ.mean(axis=0)).sum(axis=0) / (windows - 1)
    within_J = np.square(values_BSJ - mean_BJ[:, None]).sum(axis=(0, 1)) / (windows * (places - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        share_J = (between_J - within_J) / (between_J + (places - 1) * within_J)
    return np.where(_varies(values_RJ), share_J, np.nan)


def log_ratio(counts_a_V: npt.NDArray[np.int64], counts_b_V: npt.NDArray[np.int64]) -> Float64Array:
    """What Naive Bayes adds for each token, ln P(u|A) / P(u|B) with 1/2 added to every count: float64 [V], in nats."""
    shares = [(counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (counts_a_V, counts_b_V)]
    found: Float64Array = np.log(shares[0]) - np.log(shares[1])
    return found


def weighted_correlation(values_XJ: Float64Array, target_X: Float64Array, weight_X: Float64Array) -> Float64Array:
    """Pearson's correlation of each column with a target under weights, float64 [J]; NaN where one does not vary."""
    weight_X1 = (weight_X / weight_X.sum())[:, None]
    a = values_XJ - (weight_X1 * values_XJ).sum(axis=0)
    b = (target_X - float(weight_X1[:, 0] @ target_X))[:, None]
    ab, aa, bb = ((weight_X1 * product).sum(axis=0) for product in (a * b, a * a, b * b))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((aa > 0) & (bb > 0), ab / np.sqrt(aa * bb), np.nan)
