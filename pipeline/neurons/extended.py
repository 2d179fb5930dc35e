"""Extended embeddings: what a token adds to the stream through a group of heads, wherever in the bag it stands.

    EE_u = sum_h f_h(u) / d_h (e_u / sigma[u, i*]) A_h W_O,h

with i* the median position of the text and d_h the median denominators. The second norm centres them, where it is a
LayerNorm, so they are kept centred. BOS has none: it stands at position 0 alone and keeps its own share.

Shapes: V vocabulary, D model, J neurons, R rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.models.blocks import BLOCK_ROWS, for_blocks
from qkatlas.pipeline.neurons.block import FirstBlock
from qkatlas.pipeline.neurons.heads import Bag

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

_BLOCKS_AT_ONCE = 8
"""Blocks whose second moments wait to be added up, in their order."""


def extended_embeddings(
    block: FirstBlock, bags: Sequence[Bag], group: Sequence[int], *, median_position: int, threads: int
) -> Float32Array:
    """Extended embeddings of the vocabulary through a group of heads.

    Args:
        block: layer 0.
        bags: of all heads, calibrated.
        group: heads of the group.
        median_position: i*.
        threads: threads to use; no number depends on it.

    Returns:
        float32 [V, D], centred where the second norm centres, rounded once.
    """
    at_median_1D = block.rows.positions()[median_position : median_position + 1]
    found_VD = np.empty(block.rows.token_VD.shape, np.float32)

    def extend(rows: slice) -> None:
        token_RD = block.rows.tokens(rows)
        normed_RD = token_RD * block.token_scale(token_RD, at_median_1D.expand_as(token_RD))[:, None]
        added_RD = torch.zeros_like(token_RD)
        for head in group:
            share_R1 = bags[head].factor_V[rows, None] / bags[head].denominator
            added_RD += (share_R1 * (normed_RD @ block.value_NDH[head])) @ block.output_NHD[head]
        found_VD[rows] = block.centred(added_RD)

    for_blocks(len(found_VD), extend, threads)
    found_VD[block.architecture.require_bos()] = 0.0
    return found_VD


def local_rows(block: FirstBlock, group: Sequence[int], *, median_position: int) -> Callable[[slice], torch.Tensor]:
    """What a token adds where it stands itself: its own row, and heads outside the group that attend to it alone.

    Args:
        block: layer 0.
        group: heads of the group.
        median_position: i*.

    Returns:
        Rows of tokens -> float64 [R, D], centred where the second norm centres.
    """
    at_median_1D = block.rows.positions()[median_position : median_position + 1]
    others = [head for head in range(len(block.heads)) if head not in group]
    through_DD = torch.zeros((block.value_NDH.shape[1],) * 2, dtype=torch.float64)
    for head in others:
        through_DD += block.value_NDH[head] @ block.output_NHD[head]

    def local(rows: slice) -> torch.Tensor:
        token_RD = block.rows.tokens(rows)
        normed_RD = token_RD * block.token_scale(token_RD, at_median_1D.expand_as(token_RD))[:, None]
        return block.centred(token_RD + normed_RD @ through_DD)

    return local


@dataclass(frozen=True, kw_only=True)
class Moments:
    """First and second moments of rows, weighted.

    Attributes:
        mean_D: float64 [D].
        covariance_DD: float64 [D, D].
    """

    mean_D: Float64Array
    covariance_DD: Float64Array

    def of(self, read_JD: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Mean and standard deviation of what some neurons read of the rows, float64 [J] each."""
        variance_J = np.einsum("jd,jd->j", read_JD @ self.covariance_DD, read_JD)
        return read_JD @ self.mean_D, np.sqrt(np.maximum(variance_J, 0.0))


def weighted_moments(
    rows_of: Callable[[slice], torch.Tensor], weight_V: Float64Array, width: int, *, threads: int
) -> Moments:
    """Moments of the rows of all tokens, added up block by block in their order.

    Args:
        rows_of: rows of tokens -> float64 [R, D].
        weight_V: float64 [V], weights of the tokens, which sum to 1.
        width: D.
        threads: threads to use; no number depends on it.
    """
    weight = torch.from_numpy(weight_V)
    mean_D = torch.zeros(width, dtype=torch.float64)
    second_DD = torch.zeros((width, width), dtype=torch.float64)
    step = _BLOCKS_AT_ONCE * BLOCK_ROWS
    for start in range(0, len(weight_V), step):
        stop = min(start + step, len(weight_V))
        sums: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

        def add_up(rows: slice, start: int = start, sums: dict[int, tuple[torch.Tensor, torch.Tensor]] = sums) -> None:
            here = slice(start + rows.start, start + rows.stop)
            values_RD = rows_of(here)
            weighed_RD = values_RD * weight[here, None]
            sums[rows.start] = weighed_RD.sum(dim=0), weighed_RD.T @ values_RD

        for_blocks(stop - start, add_up, threads)
        for first in sorted(sums):
            mean_D += sums[first][0]
            second_DD += sums[first][1]
    covariance_DD = second_DD - torch.outer(mean_D, mean_D)
    return Moments(mean_D=mean_D.numpy(), covariance_DD=covariance_DD.numpy())
