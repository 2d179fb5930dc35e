"""Canonical arithmetic of the scoring engine: the same bits on any machine, tiling or device.

Two devices make floating-point results independent of the order in which a library happens to work:

* *A fixed tree.* The product of two float32 numbers is exact in float64 (24 + 24 <= 53 bits, and the exponents fit),
  so a dot product rounds only in its additions. Those follow one tree: pad H with zeros to a power of two, then
  repeatedly add the upper half to the lower half. A fused multiply-add cannot change it, as the products are exact.
* *Exact matrix products.* A float64 matrix product of integers is exact, so independent of the order of its additions,
  when no partial sum can exceed 2^53. Numbers are therefore written as sums of integer pieces of a few bits, scaled by
  powers of two (which is exact as well), and each pair of pieces is multiplied by whatever BLAS is at hand.

Shapes: R rows (queries), V keys, H head dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]

MANTISSA_BITS = 53
_BLOCK_KEYS = 4096
_SCORE_PIECE_BITS = 24


def power_of_two_at_least(count: int) -> int:
    """Return the smallest power of two that is >= `count` (1 for 0)."""
    return 1 << max(count - 1, 0).bit_length()


def canonical_dots(left: Float32Array, right: Float32Array) -> Float64Array:
    """Canonical float64 dot products over the last axis, by broadcasting.

    Args:
        left: float32 [..., H].
        right: float32 [..., H], broadcast against `left`.

    Returns:
        float64 [...]: the products summed by the module's fixed tree.
    """
    products = left.astype(np.float64) * right.astype(np.float64)
    return tree_sum(torch.from_numpy(np.atleast_1d(products))).numpy().reshape(products.shape[:-1])


def tree_sum(terms: torch.Tensor) -> torch.Tensor:
    """Sum the last axis by the fixed tree: zero-pad to a power of two, then add the upper half to the lower half.

    Args:
        terms: float64 [..., H], any device.

    Returns:
        float64 [...].
    """
    width = power_of_two_at_least(terms.shape[-1])
    if width != terms.shape[-1]:
        terms = torch.nn.functional.pad(terms, (0, width - terms.shape[-1]))
    while width > 1:
        width //= 2
        terms = terms[..., :width] + terms[..., width : 2 * width]
    return terms[..., 0]


@dataclass(frozen=True, kw_only=True)
class KeyMoments:
    """First and second moments of the keys, in the form that row moments are contracted from.

    Attributes:
        mean_H: float64 mean key, correctly rounded to within a few ulp.
        scale_H: float64 powers of two, about one standard deviation of each key dimension.
        covariance_pieces: two float64 [H, H] matrices of integers; population covariance =
            (piece0 + piece1 2^-bits) 2^-bits scale_i scale_j.
        bits: bits a piece of the covariance holds.
    """

    mean_H: torch.Tensor
    scale_H: torch.Tensor
    covariance_pieces: tuple[torch.Tensor, torch.Tensor]
    bits: int

    def to(self, device: torch.device | str) -> KeyMoments:
        """Return a copy whose tensors lie on `device`."""
        high, low = self.covariance_pieces
        return KeyMoments(
            mean_H=self.mean_H.to(device),
            scale_H=self.scale_H.to(device),
            covariance_pieces=(high.to(device), low.to(device)),
            bits=self.bits,
        )


def key_mean(keys_VH: Float32Array) -> torch.Tensor:
    """Return the mean key, float64 [H], as `key_moments` has it: exact up to a final rounding, in any order."""
    count, width = keys_VH.shape
    sum_bits = MANTISSA_BITS - (count - 1).bit_length()
    lowest_H, highest_H = _extremes(keys_VH)
    scale_H = _power_of_two_above(np.maximum(np.abs(lowest_H), np.abs(highest_H)))
    sums_2H = np.zeros((2, width))
    for start in range(0, count, _BLOCK_KEYS):
        scaled = keys_VH[start : start + _BLOCK_KEYS].astype(np.float64) / scale_H
        for piece, block in enumerate(_integer_pieces(scaled, sum_bits, 2)):
            sums_2H[piece] += block.sum(axis=0)
    # Every term is an integer and every partial sum is below 2^53: both sums are exact, so only these roundings remain.
    mean_H = (sums_2H[0] + np.ldexp(sums_2H[1], -sum_bits)) / count * scale_H * 2.0**-sum_bits
    return torch.from_numpy(mean_H)


def _extremes(keys_VH: Float32Array) -> tuple[Float64Array, Float64Array]:
    """Return the lowest and the highest entry of each column."""
    return keys_VH.min(axis=0).astype(np.float64), keys_VH.max(axis=0).astype(np.float64)


def key_moments(keys_VH: Float32Array, known_mean_H: torch.Tensor | None = None) -> KeyMoments:
    """Mean and population covariance of the keys, exact up to a final rounding and independent of summation order.

    Each column is scaled by a power of two to magnitudes <= 1 and cut into integer pieces of b bits; the sum over V of
    products of two pieces stays below 2^(2b + log2 V) <= 2^53, so every float64 matrix product is exact.

    Args:
        keys_VH: finite float32 keys.
        known_mean_H: their `key_mean`, where there is one already.

    Returns:
        The moments, on the CPU.
    """
    count, width = keys_VH.shape
    log_count = (count - 1).bit_length()
    mean_H = (key_mean(keys_VH) if known_mean_H is None else known_mean_H).numpy()
    lowest_H, highest_H = _extremes(keys_VH)
    scale_H = _power_of_two_above(np.maximum(highest_H - mean_H, mean_H - lowest_H))
    bits = (MANTISSA_BITS - log_count) // 2
    pairs = ((0, 0), (0, 1), (1, 1), (0, 2))
    products = [torch.zeros(width, width, dtype=torch.float64) for _ in pairs]
    for start in range(0, count, _BLOCK_KEYS):
        scaled = (keys_VH[start : start + _BLOCK_KEYS].astype(np.float64) - mean_H) / scale_H
        pieces = [torch.from_numpy(piece) for piece in _integer_pieces(scaled, bits, 3)]
        for product, (left, right) in zip(products, pairs, strict=True):
            product += pieces[left].T @ pieces[right]
    high, cross, low, far = (product.numpy() for product in products)
    smallest_first = np.ldexp(low + (far + far.T), -2 * bits) + np.ldexp(cross + cross.T, -bits)
    covariance_HH = (high + smallest_first) * 2.0 ** (-2 * bits) / count

    spread_H = _power_of_two_above(np.sqrt(np.diagonal(covariance_HH)))
    # |covariance_ij| <= sd_i sd_j < spread_i spread_j, so the scaled matrix is below 1 in magnitude.
    scaled_HH = covariance_HH / spread_H[:, None] / spread_H[None, :]
    pieces_HH = _integer_pieces(scaled_HH, _SCORE_PIECE_BITS, 2)
    return KeyMoments(
        mean_H=torch.from_numpy(mean_H),
        scale_H=torch.from_numpy(scale_H * spread_H),
        covariance_pieces=(torch.from_numpy(pieces_HH[0]), torch.from_numpy(pieces_HH[1])),
        bits=_SCORE_PIECE_BITS,
    )


def row_moments(queries_RH: torch.Tensor, moments: KeyMoments) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population standard deviation of q.k over all keys: q.mean(K) and sqrt(q^T Cov(K) q).

    Queries are cut into integer pieces of a bits, chosen so that a + bits + log2 H <= 53: the four products with the
    covariance's pieces are exact whatever the BLAS. What follows is elementwise, in one order.

    Args:
        queries_RH: float32, on the device of `moments`.
        moments: see `key_moments`.

    Returns:
        float64 [R] mean and [R] standard deviation, in units of q.k.
    """
    queries = queries_RH.to(torch.float64)
    mean_R = tree_sum(queries * moments.mean_H)
    scaled = queries * moments.scale_H
    largest_R1 = scaled.abs().amax(dim=1, keepdim=True)
    unit_R1 = powers_of_two_above(largest_R1)
    scaled = scaled / unit_R1
    bits = query_piece_bits(queries.shape[1], moments.bits)
    high = torch.round(scaled * 2.0**bits)
    low = torch.round((scaled * 2.0**bits - high) * 2.0**bits)
    covariance_high, covariance_low = moments.covariance_pieces
    smaller = (high @ covariance_low) * 2.0**-moments.bits + (low @ covariance_high) * 2.0**-bits
    product = (high @ covariance_high + smaller) * 2.0 ** -(bits + moments.bits)
    variance_R = tree_sum(scaled * product).clamp_min(0.0)
    return mean_R, _square_root(variance_R) * unit_R1[:, 0]


def _square_root(values: torch.Tensor) -> torch.Tensor:
    """Return the correctly rounded square root, which torch gives on CUDA but not on CPU, where it asks MKL's VML."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sqrt(values.numpy()))
    return torch.sqrt(values)


def powers_of_two_above(magnitudes: torch.Tensor) -> torch.Tensor:
    """Return powers of two strictly above float64 magnitudes (1 where a magnitude is 0), on any device."""
    # Clearing a float64's fraction bits leaves the power of two at or below it.
    below = (magnitudes.view(torch.int64) & 0x7FF0000000000000).view(torch.float64)
    return torch.where(magnitudes > 0, 2 * below, torch.ones_like(below))


def query_piece_bits(head_dim: int, key_bits: int) -> int:
    """Return the bits of a query's pieces, such that a sum of `head_dim` products with a key's pieces is exact."""
    return MANTISSA_BITS - key_bits - (head_dim - 1).bit_length()


def _power_of_two_above(magnitudes: Float64Array) -> Float64Array:
    """Return powers of two strictly above `magnitudes` (1 where a magnitude is 0)."""
    return np.ldexp(1.0, np.frexp(magnitudes)[1])


def _integer_pieces(scaled: Float64Array, bits: int, count: int) -> list[Float64Array]:
    """Cut numbers of magnitude <= 1 into integers: scaled = 2^-bits (p0 + 2^-bits (p1 + ...)) + a remainder.

    Each subtraction is exact, as both operands are multiples of the remainder's last bit and the result is smaller.
    """
    pieces = []
    remainder = scaled
    for _ in range(count):
        remainder = remainder * 2.0**bits
        piece = np.rint(remainder)
        pieces.append(piece)
        remainder = remainder - piece
    return pieces
