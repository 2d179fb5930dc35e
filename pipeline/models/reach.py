"""Which keys a query reads: those up to its own position, as far back as its layer reaches.

Shapes: T positions, query by key.
"""

from __future__ import annotations

import torch


def reach(length: int, window: int | None = None, *, device: torch.device | str | None = None) -> torch.Tensor:
    """Which positions the queries of a text read.

    Args:
        length: positions of the text, T.
        window: positions that a query reads, its own among them; None = all before it.
        device: where the answer is wanted; None = on the CPU.

    Returns:
        bool [T, T]: whether a query, a row, reads a key, a column.
    """
    position_T = torch.arange(length, device=device)
    between_TT = position_T[:, None] - position_T
    return (between_TT >= 0) & (between_TT < (length if window is None else window))
