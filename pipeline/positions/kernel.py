"""A head's kernel: how it shares its attention over the positions behind a query, and what of that is a number.

Shapes: O offsets, from the query itself on; R queries; T positions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.models.layers import capped

Float64Array = npt.NDArray[np.float64]

LOCAL = 8
"""Offsets that count as local: the query itself and the seven before it."""


def shares_of(scores_RT: torch.Tensor, read_RT: torch.Tensor, cap: float | None = None) -> torch.Tensor:
    """Shares of attention over the keys that are read, zero elsewhere.

    Args:
        scores_RT: float64 [..., T], scores in nats before a soft cap.
        read_RT: bool [..., T], keys that are read, one at least.
        cap: the score x becomes cap tanh(x / cap); None = it is x.

    Returns:
        float64 [..., T]; each row sums to 1.
    """
    return capped(scores_RT, cap).masked_fill(~read_RT, -torch.inf).softmax(dim=-1)


def by_offset(values_T: Float64Array, destination: int) -> Float64Array:
    """What stands at positions 1 to a destination, by its offset from there: [O] with the destination itself first.

    Position 0 is BOS, which a kernel leaves out.
    """
    return values_T[destination:0:-1].copy()


def kernel_measures(share_O: Float64Array) -> dict[str, float | None]:
    """Numbers of a kernel.

    Args:
        share_O: float64 [O], shares by offset, which sum to 1; 0 where the head does not reach.

    Returns:
        `width` = 1 / sum p^2, `mean_offset`, `half_offset` (the first by which half of the share is reached),
        `self_share`, `previous_share`, `local_share` (offsets 0 to 7), and `decay_length` with `decay_r2`: of the least
        squares line of ln p over the offset, weighted by p, whose slope is -1 / decay_length. The length is None where
        the share does not fall, and both where fewer than two offsets have any.
    """
    offset_O = np.arange(len(share_O), dtype=np.float64)
    found: dict[str, float | None] = {
        "width": float(1 / np.square(share_O).sum()),
        "mean_offset": float(share_O @ offset_O),
        "half_offset": float(np.argmax(np.cumsum(share_O) >= 0.5 - 1e-12)),
        "self_share": float(share_O[0]),
        "previous_share": float(share_O[1]) if len(share_O) > 1 else 0.0,
        "local_share": float(share_O[:LOCAL].sum()),
        "decay_length": None,
        "decay_r2": None,
    }
    kept_O = share_O > 0
    p, d, y = share_O[kept_O], offset_O[kept_O], np.log(share_O[kept_O])
    if len(p) > 1:
        d, y = d - p @ d / p.sum(), y - p @ y / p.sum()
        dd, yy, dy = p @ (d * d), p @ (y * y), p @ (d * y)
        # A variance that is only rounding is none: equal shares have no decay, and a line says nothing of them.
        found["decay_r2"] = float(dy * dy / (dd * yy)) if dd > 0 and yy > 1e-20 else None
        found["decay_length"] = float(-dd / dy) if dd > 0 and dy < 0 and yy > 1e-20 else None
    return found


def translation_invariance(share_RT: Float64Array, destination_R: npt.NDArray[np.int64]) -> float | None:
    """How little a kernel depends on where the query stands: 1 - mean total variation over pairs of destinations.

    Each pair is compared on the offsets that both have, where the shares of each are made to sum to 1.

    Args:
        share_RT: float64 [R, T], shares over positions; position 0 has none.
        destination_R: int64 [R], where each query stands.

    Returns:
        1 for a kernel that only moves along; None where no two destinations have offsets in common.
    """
    kernels = [by_offset(share_T, int(n)) for share_T, n in zip(share_RT, destination_R, strict=True)]
    distances = []
    for place, one in enumerate(kernels):
        for other in kernels[place + 1 :]:
            common = min(len(one), len(other))
            parts = [part[:common] for part in (one, other)]
            if common and all(part.sum() > 0 for part in parts):
                a, b = (part / part.sum() for part in parts)
                distances.append(0.5 * np.abs(a - b).sum())
    return 1 - float(np.mean(distances)) if distances else None


def quarters(length: int) -> npt.NDArray[np.int64]:
    """The destinations that translation invariance is taken at: T/4, T/2, 3T/4 and T - 1, those that there are."""
    wanted = [length // 4, length // 2, 3 * length // 4, length - 1]
    return np.unique([n for n in wanted if n >= 1]).astype(np.int64)
