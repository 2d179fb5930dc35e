"""Where features fire: how often, how strongly, and at which positions most.

Shapes: P positions, B features of a block, K firings that are kept of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True, kw_only=True)
class Firings:
    """The firings of some features.

    Attributes:
        density_B: float64, share of positions at which each fires.
        mean_B: float64, mean activation there; NaN where it never fires.
        position_BK: int64, the positions of its strongest firings, the strongest first, the earlier of equals; what
            follows its last firing means nothing.
        activation_BK: float64, its activations there; 0 past its last firing.
    """

    density_B: npt.NDArray[np.float64]
    mean_B: npt.NDArray[np.float64]
    position_BK: npt.NDArray[np.int64]
    activation_BK: npt.NDArray[np.float64]


def firings(active_PB: torch.Tensor, kept: int) -> Firings:
    """Find where features fire.

    Args:
        active_PB: float64 [P, B], their activations.
        kept: firings to keep of each, K, or as many as there are positions.
    """
    count = min(kept, len(active_PB))
    fires_B = (active_PB > 0).sum(dim=0).double()
    total_B = active_PB.sum(dim=0)
    # A stable order of all positions would cost more: only what may be among the strongest is put in order.
    value_KB, place_KB = active_PB.topk(min(len(active_PB), count + 1), dim=0)
    order = np.lexsort((place_KB.numpy(), -value_KB.numpy()), axis=0)[:count]
    found_BK = np.take_along_axis(place_KB.numpy(), order, axis=0).T
    activation_BK = np.take_along_axis(value_KB.numpy(), order, axis=0).T
    return Firings(
        density_B=(fires_B / len(active_PB)).numpy(),
        mean_B=torch.where(fires_B > 0, total_B / fires_B, torch.nan).numpy(),
        position_BK=np.ascontiguousarray(found_BK),
        activation_BK=np.ascontiguousarray(activation_BK),
    )
