"""Kin: the look-alikes of a token, which are the other tokens nearest to it by cosine similarity.

Shapes: V vocabulary, D model, H head dimension, R rows, N kin of a token.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.models.architecture import Norm
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.scoring.engine import best_keys
from qkatlas.pipeline.scoring.rows import PreparedKeys, not_own

KIN = 16
"""Kin of a token, or all other tokens of a smaller vocabulary."""

Float32Array = npt.NDArray[np.float32]


def unit_states(states_VD: Float32Array, norm: Norm, *, threads: int) -> Float32Array:
    """Scale token states to length 1, centred where the model's norm does so: their dot products are cosines in N_l.

    N_l is the state, or the centred state, divided by a positive number, which no cosine notices.

    Args:
        states_VD: float32 [V, D], the states that enter a layer.
        norm: the model's normalisation; RMSNorm centres nothing.
        threads: threads to use; the result does not depend on it.

    Returns:
        float32 [V, D]; a state that is the same in every dimension stays zero.
    """
    unit_VD = np.empty_like(states_VD)

    def scale(rows: slice) -> None:
        centred_RD = states_VD[rows].astype(np.float64)
        if norm.kind == "layer":
            centred_RD -= centred_RD.mean(axis=1, keepdims=True)
        length_R1 = np.sqrt((centred_RD**2).sum(axis=1, keepdims=True))
        unit_VD[rows] = centred_RD / np.where(length_R1 > 0, length_R1, 1.0)

    for_blocks(len(states_VD), scale, threads)
    return unit_VD


def nearest(unit: PreparedKeys, rows: slice, *, threads: int) -> tuple[npt.NDArray[np.int32], Float32Array]:
    """The kin of some tokens: the exact nearest by cosine, ties to the lower id, the token itself left out by its id.

    Args:
        unit: the vocabulary's `unit_states`, prepared as keys.
        rows: which tokens.
        threads: threads to use; the result does not depend on it.

    Returns:
        int32 [R, N] ids and float32 [R, N] cosines, nearest first; N = min(16, V - 1).
    """
    own_R = np.arange(rows.start, rows.stop)
    count = min(KIN, unit.vocabulary_size - 1)
    key_ids_RK, cosines_RK = best_keys(unit.keys_VH[rows], unit, k=count + 1, threads=threads)
    other_RK = not_own(key_ids_RK, own_R)  # exact duplicates of a token may crowd it out of its own list
    shape = len(own_R), count
    return key_ids_RK[other_RK].reshape(shape), cosines_RK[other_RK].reshape(shape)


def kin_scores(
    queries_RH: Float32Array, keys_VH: Float32Array, kin_ids_RN: npt.NDArray[np.int32], scale: float
) -> npt.NDArray[np.float64]:
    """Mean score of some tokens to their kin.

    Args:
        queries_RH: float32 [R, H].
        keys_VH: float32 [V, H].
        kin_ids_RN: int32 [R, N], the kin of each row.
        scale: factor from dot product to score.

    Returns:
        float64 [R]; NaN where a token has no kin.
    """
    if kin_ids_RN.shape[1] == 0:
        return np.full(len(queries_RH), np.nan)
    total_R = np.zeros(len(queries_RH))
    # Loaded where it is used, as the engine loads it: numba is slow to import.
    from qkatlas.pipeline.circuit import kin_kernels

    if queries_RH.shape[1] <= kin_kernels.WIDEST:
        kin_ids_RN = np.ascontiguousarray(kin_ids_RN, np.int32)
        kin_kernels.add_dots(np.ascontiguousarray(queries_RH), np.ascontiguousarray(keys_VH), kin_ids_RN, total_R)
    else:
        queries = queries_RH.astype(np.float64)
        # One neighbour at a time: the sum has one order, and memory for one set of keys is enough.
        for ids_R in kin_ids_RN.T:
            total_R += (queries * keys_VH[ids_R]).sum(axis=1)
    mean_R: npt.NDArray[np.float64] = total_R * scale / kin_ids_RN.shape[1]
    return mean_R
