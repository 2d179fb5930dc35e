"""What is said of some neurons: how they read the bag, how good that is on text, and which is their opposite.

Shapes: V vocabulary, D model, J neurons of a shard, R places of a text, X tokens of two classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.neurons.fit import (
    between_documents,
    correlation,
    kappa_of_signs,
    log_ratio,
    unexplained,
    weighted_correlation,
)
from qkatlas.pipeline.neurons.products import product
from qkatlas.pipeline.neurons.reading import Reading
from qkatlas.pipeline.neurons.text import Streams

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """What a Naive Bayes classifier of two texts adds for each of their tokens.

    Attributes:
        token_ids_X: int64 [X], tokens that occur in either.
        log_ratio_X: float64 [X], in nats.
        weight_X: float64 [X], how often each occurs in both.
    """

    token_ids_X: IntArray
    log_ratio_X: Float64Array
    weight_X: Float64Array

    @classmethod
    def of(cls, tokens_a: IntArray, tokens_b: IntArray, vocab_size: int) -> Classes:
        """Those of two texts.

        Args:
            tokens_a: int64, tokens of the one.
            tokens_b: int64, tokens of the other.
            vocab_size: V.
        """
        counts = [np.bincount(tokens, minlength=vocab_size) for tokens in (tokens_a, tokens_b)]
        both_V = counts[0] + counts[1]
        found = np.flatnonzero(both_V)
        return cls(
            token_ids_X=found,
            log_ratio_X=log_ratio(*counts)[found],
            weight_X=both_V[found].astype(np.float64),
        )


def fit_columns(text: Streams, read_JD: Float64Array, bias_J: Float64Array, *, threads: int) -> dict[str, Float64Array]:
    """How good the approximation is on a text.

    Args:
        text: what neurons read there.
        read_JD: float64 [J, D], of some neurons.
        bias_J: float64 [J].
        threads: threads to use; no number depends on it.

    Returns:
        Columns by name, float64 [J]; NaN where nothing varies.
    """
    real_RJ, approximate_RJ, group_RJ, bag_RJ, common_RJ = (
        product(values_RD, read_JD, threads=threads)
        for values_RD in (text.real, text.approximate, text.group, text.bag, text.common)
    )
    real_RJ, approximate_RJ = real_RJ + bias_J, approximate_RJ + bias_J
    return {
        "contextuality": between_documents(real_RJ, text.windows),
        "r_group": correlation(group_RJ, bag_RJ),
        "fvu_group": unexplained(group_RJ, bag_RJ),
        "r_common": correlation(group_RJ, common_RJ),
        "fvu_common": unexplained(group_RJ, common_RJ),
        "r_pre": correlation(real_RJ, approximate_RJ),
        "fvu_pre": unexplained(real_RJ, approximate_RJ),
        "noise_sd": (real_RJ - approximate_RJ).std(axis=0),
        "agreement": kappa_of_signs(real_RJ, approximate_RJ),
    }


def null_columns(reading: Reading, read_JD: Float64Array, *, threads: int) -> dict[str, Float64Array]:
    """The same of random groups of heads: mean and spread of r, median of fvu; NaN without any."""
    r_GJ, fvu_GJ = [], []
    for null in reading.nulls:
        group_RJ, bag_RJ = (product(values, read_JD, threads=threads) for values in (null.group, null.bag))
        r_GJ.append(correlation(group_RJ, bag_RJ))
        fvu_GJ.append(unexplained(group_RJ, bag_RJ))
    if not r_GJ:
        none_J = np.full(len(read_JD), np.nan)
        return {"r_group_null": none_J, "r_group_null_std": none_J, "fvu_group_null": none_J}
    return {
        "r_group_null": np.mean(r_GJ, axis=0),
        "r_group_null_std": np.std(r_GJ, axis=0),
        "fvu_group_null": np.median(fvu_GJ, axis=0),
    }


def weight_columns(reading: Reading, rows: slice, *, threads: int) -> dict[str, Float64Array]:
    """What the weights alone say of some neurons.

    Args:
        reading: of the layer.
        rows: the neurons.
        threads: threads to use; no number depends on it.
    """
    queries_JD = reading.queries_JD[rows].astype(np.float64)
    variance_J = np.einsum("jd,jd->j", product(queries_JD, reading.moments.covariance_DD, threads=threads), queries_JD)
    return {
        "bias": reading.bias_whole_J[rows],
        "contribution_mean": product(queries_JD, reading.moments.mean_D[None], threads=threads)[:, 0],
        "contribution_std": np.sqrt(np.maximum(variance_J, 0.0)),
        "contextuality_weights": reading.contextuality_J[rows],
    }


def opposites(write_JD: npt.NDArray[np.float32], rows: slice, *, threads: int) -> tuple[IntArray, Float64Array]:
    """For some neurons the one whose output has the most negative cosine with theirs, and that cosine.

    Args:
        write_JD: float32, outputs of all neurons, two at least.
        rows: the neurons.
        threads: threads to use; no number depends on it.

    Returns:
        int64 [J] and float64 [J]; NaN, of any neuron, where no cosine is below 0.
    """
    length_J1 = np.linalg.norm(write_JD.astype(np.float64), axis=1, keepdims=True)
    unit_JD = write_JD / np.where(length_J1 > 0, length_J1, 1.0)
    cosine_JJ = product(unit_JD[rows], unit_JD, threads=threads)
    opposite_J = cosine_JJ.argmin(axis=1)
    lowest_J = cosine_JJ.min(axis=1)
    return opposite_J, np.where(lowest_J < 0, lowest_J, np.nan)


def naive_bayes(reading: Reading, rows: slice, classes: Classes, *, threads: int) -> Float64Array:
    """Correlation of some neurons' contributions with what Naive Bayes adds, float64 [J]; NaN where one is constant."""
    values_XJ = product(
        reading.extended_VD[classes.token_ids_X], reading.queries_JD[rows].astype(np.float64), threads=threads
    )
    return weighted_correlation(values_XJ, classes.log_ratio_X, classes.weight_X)
