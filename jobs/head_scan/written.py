"""What a head scan computes of what a head writes: its OV tables, and its row's columns about them.

Shapes: V vocabulary, N kin of a token, K kept keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.worker.ov import Written, ov_tables, score_written
from qkatlas.jobs.worker.tables import row_z
from qkatlas.pipeline.circuit.kin import kin_scores
from qkatlas.pipeline.circuit.ov import OvWeights, ov_inputs
from qkatlas.pipeline.circuit.ov_spectrum import OvSpectrum, ov_spectrum
from qkatlas.pipeline.circuit.summary import hub_summary, mean, null_columns, rank_summary
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.rows import PreparedKeys

NEAREST_ENDS = 10
"""How far from either end of a row a token counts as copied or suppressed, and how many best keys are looked at."""

SPECTRUM_VALUES = ("eigenvalue", "eigenvalue_imaginary", "singular_value")
"""Columns of `ov_spectrum` that hold its values."""


@dataclass(frozen=True, kw_only=True)
class WrittenTo:
    """What the heads of a layer write to, shared by all of them.

    Attributes:
        unembedding_VD: float32, as stored.
        cross_moment_DD: mean over tokens of centred unembedding row times normalised state.
    """

    unembedding_VD: np.ndarray
    cross_moment_DD: np.ndarray


def scan_written(
    grant: Grant,
    weights: OvWeights,
    to: WrittenTo,
    *,
    states_VD: np.ndarray,
    kin_ids_VN: np.ndarray,
    head: Head,
    top_k: int,
    seed: int,
    best_keys_VK: np.ndarray | None,
) -> tuple[dict[str, pa.Table], dict[str, Any], dict[str, list[float]]]:
    """Rank what attending to every token adds to every logit, and sum up.

    Args:
        grant: what the worker may use.
        weights: of the head's values and outputs.
        to: what its layer's heads write to.
        states_VD: token states in front of the layer.
        kin_ids_VN: everyone's kin.
        head: the head.
        top_k: tokens kept at either end.
        seed: of the spectrum's null.
        best_keys_VK: int32, the best keys of each query token; None where QK was not asked for.

    Returns:
        Tables, columns of the head's row, and columns of its spectrum.
    """
    inputs = ov_inputs(weights, states_VD, to.unembedding_VD, threads=grant.cpus)
    token_ids_V = np.arange(len(states_VD), dtype=np.int32)
    outputs = PreparedKeys(inputs.outputs_VH, device=grant.device)
    written = score_written(inputs.values_VH, outputs, token_ids_V, k=top_k, threads=grant.cpus)
    kin_score_V = kin_scores(inputs.values_VH, inputs.outputs_VH, kin_ids_VN, 1.0)
    own = ov_spectrum(weights.form, to.cross_moment_DD, head, seed=seed)
    columns = {**_self_columns(written, kin_score_V), **_spectrum_columns(own)}
    if best_keys_VK is not None:
        columns["copy_suppression"] = copy_suppression(
            best_keys_VK, kin_ids_VN, written.suppressed.self_rank_R <= NEAREST_ENDS
        )
    values = own.eigenvalues_H.real, own.eigenvalues_H.imag, own.singular_values_H
    spectrum = {name: of.tolist() for name, of in zip(SPECTRUM_VALUES, values, strict=True)}
    return ov_tables(token_ids_V, written, kin_score_V), columns, spectrum


def copy_suppression(best_keys_VK: np.ndarray, kin_ids_VN: np.ndarray, suppresses_V: np.ndarray) -> float | None:
    """Share of query tokens with a look-alike among their best keys that suppresses itself when it is attended.

    Args:
        best_keys_VK: int32, the best keys of each query token, best first; the first 10 count.
        kin_ids_VN: int32, everyone's look-alikes.
        suppresses_V: bool, tokens that are among the 10 which attending to them suppresses most.

    Returns:
        The share; None where tokens have no look-alikes.
    """
    if kin_ids_VN.shape[1] == 0:
        return None
    keys_VK = best_keys_VK[:, :NEAREST_ENDS]
    found_V = np.zeros(len(keys_VK), np.bool_)
    for kin_V in kin_ids_VN.T:  # one look-alike at a time: V x K booleans, not V x K x N
        found_V |= ((keys_VK == kin_V[:, None]) & suppresses_V[kin_V][:, None]).any(axis=1)
    return float(found_V.mean())


def _self_columns(written: Written, kin_score_V: np.ndarray) -> dict[str, Any]:
    promoted = written.promoted
    ranks = rank_summary(promoted.self_rank_R, tops=(1, NEAREST_ENDS))
    del ranks["self_mrr"]
    return {
        **{f"ov_{name}": value for name, value in ranks.items()},
        "ov_self_lowest10_share": float((written.suppressed.self_rank_R <= NEAREST_ENDS).mean()),
        "ov_self_z_mean": mean(row_z(promoted.self_score_R.astype(np.float64), promoted)),
        "ov_kin_z_mean": mean(row_z(kin_score_V, promoted)),
        **{f"ov_{name}": value for name, value in hub_summary(promoted.key_ids_RK[:, 0]).items()},
    }


def _spectrum_columns(own: OvSpectrum) -> Mapping[str, Any]:
    return {
        **null_columns("copying_score", own.copying_score),
        **null_columns("ov_self_energy", own.self_energy),
    }
