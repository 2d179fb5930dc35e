"""Float32 preselection with a proven error bound, shared by the CPU and CUDA scoring engines.

Preselection scores are s_u = q' . k'_u in float32, with q' = q 2^-e (largest entry of the row in [1/2, 1)) and
k'_u = (k_u - mean key) 2^-g (largest entry of all keys in [1/2, 1)). Shifting every key by one vector and scaling by
powers of two moves no order within a row, keeps float32 from overflowing, and makes the row mean of s zero. With
D_u the canonical dot product and v = 2^-24, for every key

    |s_u - (D_u - q.mean) 2^-(e+g)| <= E = 1.01 (H + 2) v |q'| max|k'| + 2^-48 |q'| max|k| 2^-g + H 2^-120.

The first term is the standard bound H v / (1 - H v) for a float32 dot product in any order, with or without fused
multiply-add (Higham, Accuracy and Stability of Numerical Algorithms, 3.5), plus the rounding of k - mean; the second
covers the float64 roundings of D, of q.mean and of k - mean; the third what underflow can lose, even where subnormal
numbers are flushed to zero. H + 2 instead of H + 1 leaves one rounding over for float32 bounds computed from scores.
Two keys whose s differ by more than 2E are in their true order: only the rest needs D.

Shapes: R rows (queries), V keys, H head dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from qkatlas.pipeline.scoring.exact import Float32Array, Float64Array, powers_of_two_above

_BLOCK_KEYS = 4096


@dataclass(frozen=True, kw_only=True)
class KeyScale:
    """How keys are centred and scaled for preselection, and the norms that its error bound needs.

    Attributes:
        mean_H: float64 mean key.
        exponent: g of the module's text.
        norm: largest |k| 2^-g, rounded up.
        norm_centred: largest |k'|, rounded up.
    """

    mean_H: Float64Array
    exponent: int
    norm: float
    norm_centred: float

    def centre(self, keys_NH: Float32Array) -> Float32Array:
        """Return k' for some keys."""
        centred = keys_NH.astype(np.float64)
        centred -= self.mean_H
        return np.ldexp(centred, -self.exponent).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class RowFrame:
    """Scaled queries and, per row, what is certain about a preselection score.

    Attributes:
        scaled_RH: float32 q'.
        unit_R: float64 2^-(e+g).
        low_R: float32; a score below it is surely not above the row's own key.
        high_R: float32; a score above it surely is.
        margin_R: float32, 2E rounded up.
    """

    scaled_RH: torch.Tensor
    unit_R: torch.Tensor
    low_R: torch.Tensor
    high_R: torch.Tensor
    margin_R: torch.Tensor


def key_scale(keys_VH: Float32Array, mean_H: Float64Array) -> KeyScale:
    """Measure the keys, block by block."""
    largest = norm = norm_centred = 0.0
    for start in range(0, len(keys_VH), _BLOCK_KEYS):
        block = keys_VH[start : start + _BLOCK_KEYS].astype(np.float64)
        norm = max(norm, float(np.sqrt(np.einsum("vh,vh->v", block, block).max())))
        block -= mean_H
        norm_centred = max(norm_centred, float(np.sqrt(np.einsum("vh,vh->v", block, block).max())))
        largest = max(largest, float(np.abs(block).max()))
    exponent = math.frexp(largest)[1]
    up = 1 + 1e-6
    return KeyScale(
        mean_H=mean_H,
        exponent=exponent,
        norm=math.ldexp(norm, -exponent) * up,
        norm_centred=math.ldexp(norm_centred, -exponent) * up,
    )


def frame_rows(queries_RH: torch.Tensor, own_dot_R: torch.Tensor, mean_R: torch.Tensor, scale: KeyScale) -> RowFrame:
    """Scale queries and bound their preselection scores.

    Args:
        queries_RH: float32, any device.
        own_dot_R: float64 canonical dot product with the row's own key.
        mean_R: float64 q.mean, as `exact.row_moments` gives it.
        scale: the keys' scale.

    Returns:
        The scaled queries and their bounds, on the queries' device.
    """
    queries = queries_RH.to(torch.float64)
    power_R = powers_of_two_above(queries.abs().amax(dim=1))
    scaled = queries / power_R[:, None]
    norm_R = (scaled * scaled).sum(dim=1).sqrt() * (1 + 1e-6)
    width = queries.shape[1]
    bound_R = norm_R * (1.01 * (width + 2) * 2.0**-24 * scale.norm_centred + 2.0**-48 * scale.norm) + width * 2.0**-120
    unit_R = math.ldexp(1.0, -scale.exponent) / power_R
    own_R = (own_dot_R - mean_R) * unit_R
    return RowFrame(
        scaled_RH=scaled.to(torch.float32),
        unit_R=unit_R,
        low_R=_next(own_R - bound_R, -math.inf),
        high_R=_next(own_R + bound_R, math.inf),
        margin_R=_next(2 * bound_R, math.inf),
    )


def below(scores_R: torch.Tensor, margin_R: torch.Tensor) -> torch.Tensor:
    """Return a float32 surely no greater than scores - margin: one step below the rounded difference."""
    return _next(scores_R.to(torch.float64) - margin_R, -math.inf)


def refuse_imprecise(worst: float) -> None:
    """Check the bound on the scores that were seen.

    Args:
        worst: largest |float32 score - canonical one|, as a multiple of its row's E.

    Raises:
        RuntimeError: it is above 1, so the product that made the scores is not one of float32 arithmetic.
    """
    if worst > 1:
        raise RuntimeError(
            f"the float32 matrix product is off by {worst:.3g} times the bound of float32 arithmetic; "
            "switch TF32 and bfloat16 off: call torch.set_float32_matmul_precision('highest')"
        )


def _next(values: torch.Tensor, towards: float) -> torch.Tensor:
    rounded = values.to(torch.float32)
    return torch.nextafter(rounded, torch.full_like(rounded, towards))
