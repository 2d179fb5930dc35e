"""Sources of a shard's firings, gathered window by window.

Shapes: T positions, F features of a shard, K kept firings, Q firings of a window, N heads, Y relations, X width of z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from qkatlas.pipeline.features.sources import RELATIONS, Sources, attribute, relations
from qkatlas.pipeline.models.blocks import for_blocks

BLOCK_FIRINGS = 256
"""Firings that are attributed together; fixed, because the shape of a product may change its last bit."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What is known of the sources of some features' strongest firings; changed in place by `add`.

    Attributes:
        share_FY, chance_FY, best_FY: float64, sums over firings: share of the positive DFA from sources of each
            relation, share of positions that have it, and whether the strongest source has.
        head_FYN: float64, each head's positive DFA there, summed.
        count_F: firings that have a positive DFA.
        position_FK, head_FK, strength_FK: of each firing the strongest source, the head that adds most there, and its
            share of the positive DFA; -1 and NaN where there is none.
    """

    share_FY: np.ndarray
    chance_FY: np.ndarray
    best_FY: np.ndarray
    head_FYN: np.ndarray
    count_F: np.ndarray
    position_FK: np.ndarray
    head_FK: np.ndarray
    strength_FK: np.ndarray

    @classmethod
    def empty(cls, features: int, kept: int, n_heads: int) -> Gathered:
        """Nothing yet."""
        share_FY, chance_FY, best_FY = np.zeros((3, features, len(RELATIONS)))
        position_FK, head_FK = np.full((2, features, kept), -1, np.int64)
        return cls(
            share_FY=share_FY, chance_FY=chance_FY, best_FY=best_FY,
            head_FYN=np.zeros((features, len(RELATIONS), n_heads)), count_F=np.zeros(features, np.int64),
            position_FK=position_FK, head_FK=head_FK, strength_FK=np.full((features, kept), np.nan),
        )  # fmt: skip

    def add(
        self,
        pattern_NTT: torch.Tensor,
        value_TX: torch.Tensor,
        tokens_T: np.ndarray,
        read_XF: torch.Tensor,
        firing_Q: tuple[np.ndarray, np.ndarray, np.ndarray],
        *,
        threads: int,
    ) -> None:
        """Attribute the firings of one window.

        Args:
            pattern_NTT: float64 [N, T, T], attention.
            value_TX: float64 [T, X], values by the dictionary's convention.
            tokens_T: int64 [T].
            read_XF: float64 [X, F], what each feature reads.
            firing_Q: of each firing its feature, its place among the feature's, and its position in the window.
            threads: threads to use; no number depends on it.
        """
        feature_Q, rank_Q, n_Q = firing_Q
        holds_YTT = torch.from_numpy(relations(tokens_T))
        parts: list[Sources | None] = [None] * -(-len(n_Q) // BLOCK_FIRINGS)

        def attribute_some(rows: slice) -> None:
            read_XR = read_XF[:, torch.from_numpy(feature_Q[rows])]
            found = attribute(pattern_NTT, value_TX, holds_YTT, read_XR, n_Q[rows])
            parts[rows.start // BLOCK_FIRINGS] = found

        for_blocks(len(n_Q), attribute_some, threads, BLOCK_FIRINGS)
        for number, part in enumerate(parts):  # in order, whoever was ready first
            assert part is not None
            rows = slice(number * BLOCK_FIRINGS, number * BLOCK_FIRINGS + len(part.total_Q))
            self._add(part, feature_Q[rows], rank_Q[rows])

    def _add(self, part: Sources, feature_Q: np.ndarray, rank_Q: np.ndarray) -> None:
        some_Q = ~np.isnan(part.source_share_Q)
        feature_R, rank_R = feature_Q[some_Q], rank_Q[some_Q]
        for sums, values in (
            (self.share_FY, part.share_QY), (self.chance_FY, part.chance_QY), (self.best_FY, part.best_QY),
            (self.head_FYN, part.head_QYN),
        ):  # fmt: skip
            np.add.at(sums, feature_R, values[some_Q])
        np.add.at(self.count_F, feature_R, 1)
        self.position_FK[feature_R, rank_R] = part.source_Q[some_Q]
        self.head_FK[feature_R, rank_R] = part.head_Q[some_Q]
        self.strength_FK[feature_R, rank_R] = part.source_share_Q[some_Q]
