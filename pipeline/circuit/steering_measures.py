"""What a steered head keeps and what it loses: overlap, rank correlation, category precision.

Shapes: V vocabulary, K top-k, R sampled rows, W width of queries and keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata

from qkatlas.pipeline.circuit.projection import HeadInputs
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.scoring.rows import not_own
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.word_tokens import TokenCategory

Int32Array = npt.NDArray[np.int32]
Float64Array = npt.NDArray[np.float64]

_RANKED_ROWS = 8  # rows of one product; fixed, because a product's shape may change its last bit


def sample_rows(vocab_size: int, count: int, seed: int) -> Int32Array:
    """Tokens drawn without replacement, in ascending order.

    Args:
        vocab_size: V.
        count: how many; all of a smaller vocabulary.
        seed: of the draw.

    Returns:
        int32 [R].
    """
    rng = streams.SPEARMAN_ROWS.generator(seed, vocab_size)
    return np.sort(rng.choice(vocab_size, min(count, vocab_size), replace=False)).astype(np.int32)


def row_ranks(inputs: HeadInputs, token_ids_R: Int32Array, *, threads: int) -> npt.NDArray[np.float32]:
    """Rank of every key in the rows of some tokens, equal float64 scores sharing their mean rank.

    Args:
        inputs: queries and keys; scores are compared as float64 dot products of these.
        token_ids_R: int32 [R], the rows.
        threads: threads to use; the result does not depend on it.

    Returns:
        float32 [R, V], 1 = lowest; exact up to 2^23 keys.
    """
    keys_WV = torch.from_numpy(inputs.keys_VH.astype(np.float64)).T
    ranks_RV = np.empty((len(token_ids_R), len(inputs.keys_VH)), np.float32)

    def rank(rows: slice) -> None:
        queries_RW = torch.from_numpy(inputs.queries_VH[token_ids_R[rows]].astype(np.float64))
        ranks_RV[rows] = rankdata((queries_RW @ keys_WV).numpy(), axis=1)

    for_blocks(len(token_ids_R), rank, threads, _RANKED_ROWS)
    return ranks_RV


def spearman(ranks_RV: npt.NDArray[np.float32], other_RV: npt.NDArray[np.float32]) -> Float64Array:
    """Spearman's correlation of rows: Pearson's of their ranks.

    Args:
        ranks_RV: float32 [R, V], ranks in one row each.
        other_RV: float32 [R, V], of the same rows under another head.

    Returns:
        float64 [R]; NaN where a row does not vary.
    """
    correlation_R = np.empty(len(ranks_RV))
    for row, (one_V, two_V) in enumerate(zip(ranks_RV, other_RV, strict=True)):
        a_V, b_V = (ranks_V.astype(np.float64) - (len(ranks_V) + 1) / 2 for ranks_V in (one_V, two_V))
        size = np.sqrt((a_V @ a_V) * (b_V @ b_V))
        correlation_R[row] = (a_V @ b_V) / size if size else np.nan
    return correlation_R


def overlap(key_ids_RK: Int32Array, other_RK: Int32Array) -> Float64Array:
    """Share of each row's keys that are also in another list of the same row.

    Args:
        key_ids_RK: int32 [R, K], distinct in a row.
        other_RK: int32 [R, K].

    Returns:
        float64 [R].
    """
    shared_R = np.zeros(len(key_ids_RK), np.int64)
    for keys_R in other_RK.T:
        shared_R += (key_ids_RK == keys_R[:, None]).any(axis=1)
    shares_R: Float64Array = shared_R / key_ids_RK.shape[1]
    return shares_R


def best_others(key_ids_VK: Int32Array, token_ids_R: Int32Array) -> Int32Array:
    """The best keys of some tokens but the token itself, which is known by its id.

    Args:
        key_ids_VK: int32 [V, K], the best keys of every token.
        token_ids_R: int32 [R], the tokens.

    Returns:
        int32 [R, K - 1].
    """
    key_ids_RK = key_ids_VK[token_ids_R]
    others_RK: Int32Array = key_ids_RK[not_own(key_ids_RK, token_ids_R)].reshape(len(token_ids_R), -1)
    return others_RK


def category_precision(key_ids_VK: Int32Array, categories: Sequence[TokenCategory]) -> Float64Array:
    """Share of a category token's best K - 1 keys other than itself that are of its category.

    Args:
        key_ids_VK: int32 [V, K], the best keys of every token.
        categories: the categories.

    Returns:
        float64, one entry a category token, category by category.
    """
    shares = [
        np.isin(best_others(key_ids_VK, category.token_ids), category.token_ids).mean(axis=1) for category in categories
    ]
    return np.concatenate([np.empty(0), *shares])
