"""A head in one row: means, medians and shares of its self statistics over the vocabulary, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.circuit.spectrum import AgainstNull, Spectrum, SpectrumNull

BOOTSTRAP_DRAWS = 1000
"""Resamples of the tokens behind an interval."""

_NORMAL_95 = 1.959964
"""Standard deviations on either side of a mean that hold 95% of a normal law."""

Float64Array = npt.NDArray[np.float64]


def self_summary(
    self_rank_V: npt.NDArray[np.int32], self_z_V: Float64Array, kin_z_V: Float64Array, seed: np.random.SeedSequence
) -> dict[str, Any]:
    """Summarise how a head treats tokens themselves and their kin.

    Args:
        self_rank_V: rank of each token in its own row, 1 = first.
        self_z_V: (self score - row mean) / row std; NaN where a row does not vary.
        kin_z_V: the same of the mean score to the token's kin; NaN where undefined.
        seed: of the bootstrap; one a head, so that no order of work changes an interval.

    Returns:
        Column name -> value, None where it is defined for no token. `suppression_index_low` and `_high` bound the
        middle 95% of the mean over resampled tokens.
    """
    index_V = kin_z_V - self_z_V
    index_V = index_V[~np.isnan(index_V)]
    low, high = mean_interval(index_V, seed)
    return {
        **rank_summary(self_rank_V, tops=(1, 10, 1024)),
        **_self_z(self_z_V),
        "kin_z_mean": mean(kin_z_V),
        "suppression_index_mean": mean(index_V),
        "suppression_index_low": low,
        "suppression_index_high": high,
        "suppression_index_positive_share": mean((index_V > 0).astype(np.float64)),
    }


def _self_z(self_z_V: Float64Array) -> dict[str, float | None]:
    """Mean of self z and its 95% interval over tokens, by the normal law of so long a mean."""
    own, spread = mean(self_z_V), std(self_z_V)
    if own is None or spread is None:
        return {"self_z_mean": None, "self_z_low": None, "self_z_high": None}
    reach = _NORMAL_95 * spread / float(np.sqrt((~np.isnan(self_z_V)).sum()))
    return {"self_z_mean": own, "self_z_low": own - reach, "self_z_high": own + reach}


def hub_summary(best_id_V: npt.NDArray[np.int32]) -> dict[str, Any]:
    """How far one key is the best of many rows, as sinks are.

    Args:
        best_id_V: int32 [V], the best key of each row, which may be the token itself.

    Returns:
        `hub_id`, the key that is the best of most rows, the lowest of equals, and `hub_share`, the share of these rows.
    """
    counts = np.bincount(best_id_V)
    return {"hub_id": int(counts.argmax()), "hub_share": float(counts.max() / len(best_id_V))}


def rank_summary(self_rank_V: npt.NDArray[np.int32], *, tops: Sequence[int]) -> dict[str, float]:
    """Where tokens stand in their own rows.

    Args:
        self_rank_V: int32 [V], 1 + number of keys with a higher score than the token itself.
        tops: ranks up to which tokens are counted.

    Returns:
        Column name -> value.
    """
    rank_V = self_rank_V.astype(np.float64)
    return {
        "self_rank_mean": float(rank_V.mean()),
        "self_rank_median": float(np.median(rank_V)),
        **{f"self_top{top}_share": float((rank_V <= top).mean()) for top in tops},
        "self_mrr": float((1 / rank_V).mean()),
    }


def spectrum_summary(own: Spectrum, null: SpectrumNull) -> dict[str, Any]:
    """Summarise a head's spectrum beside that of random heads.

    Args:
        own: the head's.
        null: its figures against random heads with the same singular values.

    Returns:
        Column name -> value.
    """
    row: dict[str, Any] = {}
    for name, figure in (
        ("positive_self_energy", null.positive_self_energy),
        ("negative_self_energy", null.negative_self_energy),
        ("n_negative_top_h", null.n_negative_top_H),
    ):
        row |= null_columns(name, figure)
    return {
        **row,
        "norm": own.norm,
        "sym_norm": own.sym_norm,
        "skew_norm": own.skew_norm,
        "max_singular_value_sym": float(own.sym_singular_values_2H[0]),
        "max_singular_value_skew": float(own.skew_singular_values_2H[0]),
    }


def null_columns(name: str, figure: AgainstNull) -> dict[str, float | None]:
    """One figure of a head, and what random heads have, as columns.

    Args:
        name: of the figure's column.
        figure: the figure.
    """
    return {
        name: figure.value,
        f"{name}_null_mean": figure.mean,
        f"{name}_null_std": figure.std,
        f"{name}_null_z": figure.z,
    }


def mean_interval(values_N: Float64Array, seed: np.random.SeedSequence) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of a mean, 95%.

    Args:
        values_N: the values, one a token.
        seed: of the resampling.

    Returns:
        Lower and upper end; None for no values.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if not len(values_N):
        return None, None
    # Loaded where it is used, as the engine loads it: numba is slow to import.
    from qkatlas.pipeline.circuit.resampling import resampled_means

    low, high = np.percentile(resampled_means(values_N, seed, BOOTSTRAP_DRAWS), [2.5, 97.5])
    return float(low), float(high)


def mean(values: Float64Array) -> float | None:
    """Mean of the values that are not NaN; None where there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def std(values: Float64Array) -> float | None:
    """Population standard deviation of the values that are not NaN; None where there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.std()) if len(defined) else None
