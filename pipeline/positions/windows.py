"""Windows of text as one head sees them.

Shapes: B windows, T positions, D model, H width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights, unturned
from qkatlas.pipeline.models.blocks import for_blocks

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of text as one head sees them; the first half of them and the second are of different parts of it.

    Attributes:
        tokens_BT: int64 [B, T], BOS first.
        query_BTH, key_BTH: float64 [B, T, H], before they are turned.
    """

    tokens_BT: IntArray
    query_BTH: torch.Tensor
    key_BTH: torch.Tensor

    @classmethod
    def of(
        cls, weights: HeadWeights, tokens_BT: IntArray, stream_BTD: npt.NDArray[np.float32], *, threads: int
    ) -> Windows:
        """Those that a layer's streams give.

        Args:
            weights: of the head.
            tokens_BT: int64 [B, T].
            stream_BTD: float32 [B, T, D], what enters the head's layer.
            threads: threads to use; no number depends on it.
        """
        shape = (*tokens_BT.shape, weights.w_qk_D2H.shape[1] // 2)
        query_BTH, key_BTH = (torch.empty(shape, dtype=torch.float64) for _ in range(2))

        def project(windows: slice) -> None:
            b = windows.start
            query_BTH[b], key_BTH[b] = unturned(weights, torch.from_numpy(stream_BTD[b].astype(np.float64)))

        for_blocks(len(tokens_BT), project, threads, 1)
        return cls(tokens_BT=tokens_BT, query_BTH=query_BTH, key_BTH=key_BTH)

    def __getitem__(self, windows: slice) -> Windows:
        return Windows(
            tokens_BT=self.tokens_BT[windows], query_BTH=self.query_BTH[windows], key_BTH=self.key_BTH[windows]
        )
