"""Every head of layer 0 as a bag of tokens would have it: a kernel over positions, and a content factor of each token.

Shapes: V vocabulary, D model, T positions, H width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.neurons.block import FirstBlock
from qkatlas.pipeline.positions.exact_source import exact_factors, exact_means
from qkatlas.pipeline.positions.means import HeadMeans
from qkatlas.pipeline.positions.prefix_source import behind_prefix
from qkatlas.pipeline.positions.windows import Windows

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bag:
    """One head, with the mean query standing for all.

    Attributes:
        means: mean queries and keys.
        factor_V: float64 [V], content factors f at the last position; 0 for BOS, which keeps its own share.
        denominator: d, the median on text of what shares are divided by: sum p f and what BOS takes; 1 before it is
            known.
        bos_share: median on text of the share that BOS takes of it.
    """

    means: HeadMeans
    factor_V: torch.Tensor
    denominator: float = 1.0
    bos_share: float = 0.0

    def calibrated(self, denominator: float, bos_share: float) -> Bag:
        """The same with what a text gave."""
        return replace(self, denominator=denominator, bos_share=bos_share)


def bags_of_heads(block: FirstBlock, weight_V: Float64Array, *, threads: int) -> tuple[list[Bag], torch.Tensor]:
    """Kernels and content factors of all heads, from the weights alone: in layer 0 they are exact means.

    Args:
        block: layer 0.
        weight_V: float64 [V], weights of the tokens, which sum to 1; BOS has none.
        threads: threads to use; no number depends on it.

    Returns:
        By head; and float64 [T], the mean over tokens of 1 / sigma at each position.
    """
    a, rows = block.architecture, block.rows
    bos = a.require_bos()
    found = []
    if a.rotary is None:
        of_tokens_TD, scale_T = rows.mean_parts(weight_V, threads=threads)
        input_TD = (of_tokens_TD + scale_T[:, None] * rows.positions()).numpy()
        means = [exact_means(weights, a, rows, input_TD, destination=None)[0] for weights in block.heads]
        pairs = list(zip(block.heads, means, strict=True))
        factors = exact_factors(pairs, rows, weight_V, threads=threads)
    else:
        length = len(rows.position_TD)
        scale_T = torch.ones(length, dtype=torch.float64)  # there is no row of a position to multiply
        nothing = torch.empty(0, dtype=torch.float64)
        windows = Windows(tokens_BT=np.zeros((0, length), np.int64), query_BTH=nothing, key_BTH=nothing)
        means, factors = [], []
        for weights in block.heads:
            apart = behind_prefix(
                weights, a, 0, rows.token_VD, weight_V, windows, destination=None, threads=threads
            )  # fmt: skip
            means.append(apart.means)
            factors.append(apart.factors)
    for of_head, own in zip(means, factors, strict=True):
        factor_V = torch.zeros(len(weight_V), dtype=torch.float64)
        factor_V[torch.from_numpy(own.token_ids_X)] = torch.from_numpy(np.exp(own.ln_f_X))
        factor_V[bos] = 0.0
        found.append(Bag(means=of_head, factor_V=factor_V))
    return found, scale_T
