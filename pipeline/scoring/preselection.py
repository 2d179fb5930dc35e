"""What low precision leaves open: the candidates and unsettled keys that float64 has to decide, for the CUDA engine.

Shapes: R rows of a block, C entries of a list.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Preselection(NamedTuple):
    """What low precision leaves open for a block of rows.

    Attributes:
        rows_C, ids_C: int64 row of the block and token id of every candidate for the top k.
        approximate_C: float32 preselection score of each.
        above_R: int64 keys surely above the row's own key.
        unsettled_rows_C, unsettled_ids_C: int64 keys that may or may not be above it.
    """

    rows_C: torch.Tensor
    ids_C: torch.Tensor
    approximate_C: torch.Tensor
    above_R: torch.Tensor
    unsettled_rows_C: torch.Tensor
    unsettled_ids_C: torch.Tensor

    def with_rows_redone(self, rows: torch.Tensor, redone: Preselection) -> Preselection:
        """Return this with everything about some rows taken from another preselection.

        Args:
            rows: int64, rows of this block.
            redone: theirs, whose rows count from 0 in the order of `rows`.
        """
        above_R = self.above_R.clone()
        above_R[rows] = redone.above_R
        keep = torch.ones(len(above_R), dtype=torch.bool, device=rows.device)
        keep[rows] = False
        old, old_unsettled = keep[self.rows_C], keep[self.unsettled_rows_C]
        return Preselection(
            rows_C=torch.cat([self.rows_C[old], rows[redone.rows_C]]),
            ids_C=torch.cat([self.ids_C[old], redone.ids_C]),
            approximate_C=torch.cat([self.approximate_C[old], redone.approximate_C]),
            above_R=above_R,
            unsettled_rows_C=torch.cat([self.unsettled_rows_C[old_unsettled], rows[redone.unsettled_rows_C]]),
            unsettled_ids_C=torch.cat([self.unsettled_ids_C[old_unsettled], redone.unsettled_ids_C]),
        )
