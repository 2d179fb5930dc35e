"""Which heads a feature belongs to: by the norms of its decoder, and by what each head adds to its pre-activation.

    share[f, h] = |W_dec[f]_h| / sum_h' |W_dec[f]_h'|
    fve[f, h] = Cov(c_h, c) / Var(c),  c_h = z_h W_enc[h, :, f],  c = sum_h c_h

c is the pre-activation less its constant. fve is a share of a covariance: it sums to 1 over heads, and one head's may
be negative or over 1. r2, the squared correlation of c_h and c, lies between 0 and 1 and sums to nothing.

Shapes: P positions, X = N H, N heads, F features, B features of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Float64Array = npt.NDArray[np.float64]

_ROUNDING = 1e-22
"""Share of a sum of squares below which a variance is rounding."""


@dataclass(frozen=True, kw_only=True)
class Owners:
    """Whose a block of features is, by the norms of decoders; NaN of a feature whose decoder is zero.

    Attributes:
        norm_B: of the whole decoder row.
        share_BN: of each head.
        entropy_B: of the shares, nats.
    """

    norm_B: Float64Array
    share_BN: Float64Array
    entropy_B: Float64Array


def owners(w_dec_BX: np.ndarray, n_heads: int) -> Owners:
    """Shares of heads in the decoders of some features.

    Args:
        w_dec_BX: [B, X], a head's numbers next to each other.
        n_heads: N.
    """
    rows_BNH = w_dec_BX.astype(np.float64).reshape(len(w_dec_BX), n_heads, -1)
    norm_BN = np.linalg.norm(rows_BNH, axis=2)
    total_B = norm_BN.sum(axis=1)
    share_BN = norm_BN / np.where(total_B > 0, total_B, np.nan)[:, None]
    return Owners(
        norm_B=np.linalg.norm(norm_BN, axis=1), share_BN=share_BN, entropy_B=entropy(share_BN)
    )  # fmt: skip


def entropy(share_BN: Float64Array) -> Float64Array:
    """Entropy of each row of shares, nats, [B]; NaN where a share is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms_BN = np.where(share_BN > 0, -share_BN * np.log(share_BN), np.where(np.isnan(share_BN), np.nan, 0.0))
    found_B: Float64Array = terms_BN.sum(axis=1)
    return found_B


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What each head adds to the pre-activations of some features, float64 [B, N]; NaN where these do not vary.

    Attributes:
        fve_BN: over all positions.
        fve_active_BN: over those where the feature fires; NaN of fewer than two of them.
        r2_BN: over all positions.
    """

    fve_BN: Float64Array
    fve_active_BN: Float64Array
    r2_BN: Float64Array


def explained(
    z_PX: torch.Tensor, scale_P: torch.Tensor, read_XB: torch.Tensor, fires_PB: torch.Tensor, n_heads: int
) -> Explained:
    """Shares of the variance of pre-activations.

    Args:
        z_PX: float64 [P, X], mixed values.
        scale_P: float64 [P], what the dictionary multiplies each position by.
        read_XB: float64 [X, B], `Encoder.read`.
        fires_PB: bool [P, B], where each feature fires.
        n_heads: N.
    """
    scaled_PX = z_PX * scale_P[:, None]
    width = scaled_PX.shape[1] // n_heads
    weights = torch.ones_like(scale_P)[:, None], fires_PB.double()
    whole_PB = scaled_PX @ read_XB
    # The mean over positions is taken off first, so that sums of squares lose no digits.
    centred = [whole_PB - _mean(whole_PB, weight) for weight in weights]
    variance = [
        _varying((weight * part.square()).sum(dim=0), (weight * whole_PB.square()).sum(dim=0))
        for weight, part in zip(weights, centred, strict=True)
    ]
    fve, r2_BN = np.empty((2, read_XB.shape[1], n_heads)), np.empty((read_XB.shape[1], n_heads))
    for head in range(n_heads):
        own = slice(head * width, (head + 1) * width)
        of_head_PB = scaled_PX[:, own] @ read_XB[own]
        for number, (weight, part) in enumerate(zip(weights, centred, strict=True)):
            own_PB = of_head_PB - _mean(of_head_PB, weight)
            shared_B = (weight * part * own_PB).sum(dim=0)
            fve[number, :, head] = _ratio(shared_B, variance[number])
            if number == 0:
                own_B = _varying(own_PB.square().sum(dim=0), of_head_PB.square().sum(dim=0))
                r2_BN[:, head] = _ratio(shared_B.square(), own_B * variance[0], zero=True)
    r2_BN[np.isnan(fve[0, :, 0])] = np.nan
    few_B = (fires_PB.sum(dim=0) < 2).numpy()
    fve[1, few_B] = np.nan
    return Explained(fve_BN=fve[0], fve_active_BN=fve[1], r2_BN=r2_BN)


def _mean(values_PB: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (weight * values_PB).sum(dim=0) / weight.sum(dim=0).clamp(min=1)


def _varying(variance_B: torch.Tensor, square_B: torch.Tensor) -> torch.Tensor:
    """Sums of squares about the mean; 0 where these are but the rounding of the numbers themselves."""
    return torch.where(variance_B > _ROUNDING * square_B, variance_B, 0.0)


def _ratio(above_B: torch.Tensor, below_B: torch.Tensor, *, zero: bool = False) -> Float64Array:
    """A quotient; where there is nothing to divide by it is NaN, or 0 if so asked."""
    quotient_B = torch.where(below_B > 0, above_B / below_B, 0.0 if zero else torch.nan)
    found_B: Float64Array = quotient_B.numpy()
    return found_B
