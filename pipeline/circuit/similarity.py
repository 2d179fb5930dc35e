"""Score minus self score against cosine similarity, over all pairs of tokens, without a V x V matrix.

Each pair (t, u) has a cosine of normalised states and a difference S[t, u] - S[t, t]. Pairs are streamed in tiles into
a histogram of C cosine bins by B score bins, from which quartiles follow to half a score bin, and into each cosine
bin's sum and sum of squares, from which mean and standard deviation follow to rounding.

Shapes: V tokens, D model, H head dimension, R rows of a block, C cosine bins, B score bins.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import HeadInputs
from qkatlas.pipeline.circuit.similarity_kernels import TileSums, accumulate
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.scoring.exact import canonical_dots

SCORE_BINS = 8192
"""Score bins; their width follows from bounds on the scores."""

_ROWS, _KEYS = 256, 2048  # of a tile; fixed, because they decide the order of the sums

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ScoreRange:
    """Where differences can lie, cut into SCORE_BINS bins.

    Attributes:
        low: lower edge of the first bin.
        step: width of a bin.
    """

    low: float
    step: float

    @classmethod
    def of(cls, inputs: HeadInputs) -> ScoreRange:
        """A range that holds every difference: |Q_t . (K_u - mean K)| is at most |Q_t| times the largest |K - mean K|.

        Args:
            inputs: queries and keys of the tokens.

        Returns:
            The range, a little wider than the bound.
        """
        queries_VH, keys_VH = inputs.queries_VH.astype(np.float64), inputs.keys_VH.astype(np.float64)
        mean_H = keys_VH.mean(axis=0)
        radius = float(np.linalg.norm(keys_VH - mean_H, axis=1).max())
        centre_V = (queries_VH * mean_H).sum(axis=1) * inputs.scale - self_scores(inputs)
        reach_V = np.linalg.norm(queries_VH, axis=1) * radius * inputs.scale
        low, high = float((centre_V - reach_V).min()), float((centre_V + reach_V).max())
        margin = 1e-3 * (high - low) or 1.0  # float32 products may overstep a bound; a head of zeros has no range
        return cls(low=low - margin, step=(high - low + 2 * margin) / SCORE_BINS)


@dataclass(frozen=True, kw_only=True)
class PairSums:
    """What some pairs leave.

    Attributes:
        counts_CB: int64 [C, B], pairs by cosine bin and score bin.
        sums_C: float64 [C], sum of the differences in each cosine bin.
        squares_C: float64 [C], sum of their squares.
        self_pairs_C: int64 [C], pairs of a token with itself.
    """

    counts_CB: Int64Array
    sums_C: Float64Array
    squares_C: Float64Array
    self_pairs_C: Int64Array


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The similarity curve; NaN where a bin is empty.

    Attributes:
        edges: float64 [C + 1], edges of the cosine bins.
        counts_C: int64 [C], pairs.
        self_pairs_C: int64 [C], those of a token with itself, whose difference is 0.
        mean_C: float64 [C], mean of the difference.
        std_C: float64 [C], its population standard deviation.
        quartiles_3C: float64 [3, C], smallest difference that a quarter, half, three quarters of the pairs do not
            exceed, to within quartile_error.
        quartile_error: half a score bin.
    """

    edges: Float64Array
    counts_C: Int64Array
    self_pairs_C: Int64Array
    mean_C: Float64Array
    std_C: Float64Array
    quartiles_3C: Float64Array
    quartile_error: float


def self_scores(inputs: HeadInputs) -> Float64Array:
    """Score of every token with itself, float64 [V]."""
    own_V: Float64Array = canonical_dots(inputs.queries_VH, inputs.keys_VH) * inputs.scale
    return own_V


def pair_sums(
    unit_VD: Float32Array, inputs: HeadInputs, rows: slice, scores: ScoreRange, cosine_bins: int, *, threads: int
) -> PairSums:
    """Sum up the pairs of some query tokens with all tokens.

    Args:
        unit_VD: float32 [V, D], centred states of length 1.
        inputs: queries and keys of the same tokens.
        rows: the query tokens.
        scores: range of the differences.
        cosine_bins: C; the bins cut -1 to 1 evenly.
        threads: threads to use; the result does not depend on it.

    Returns:
        The sums. Cosines and scores are float32 products: off by at most 1.01 D 2^-24 and 1.01 H 2^-24 |Q||K|, so a
        pair that close to an edge may be counted beside it.
    """
    unit, keys = torch.from_numpy(unit_VD), torch.from_numpy(inputs.keys_VH)
    count = rows.stop - rows.start
    blocks = -(-count // _ROWS)
    counts_CB = np.zeros((cosine_bins, SCORE_BINS), np.int64)
    sums, squares = np.zeros((blocks, cosine_bins)), np.zeros((blocks, cosine_bins))
    lock = threading.Lock()

    def add_block(block: slice) -> None:
        here = slice(rows.start + block.start, rows.start + block.stop)
        unit_RD, queries_RH = unit[here], torch.from_numpy(inputs.queries_VH[here])
        own_R = canonical_dots(inputs.queries_VH[here], inputs.keys_VH[here]) * inputs.scale
        block_CB = np.zeros((cosine_bins, SCORE_BINS), np.int32)
        number = block.start // _ROWS
        for start in range(0, len(unit), _KEYS):
            tile = slice(start, start + _KEYS)
            cosines_RN, dots_RN = unit_RD @ unit[tile].T, queries_RH @ keys[tile].T
            accumulate(
                cosines_RN.numpy(),
                dots_RN.numpy(),
                own_R,
                TileSums(block_CB, sums[number], squares[number]),
                scale=inputs.scale,
                low=scores.low,
                step=scores.step,
            )
        with lock:  # whole numbers: the order of the blocks does not matter
            np.add(counts_CB, block_CB, out=counts_CB)

    for_blocks(count, add_block, threads, _ROWS)
    own_cosine_R = (unit_VD[rows].astype(np.float64) ** 2).sum(axis=1)
    own_bin_R = np.minimum((own_cosine_R + 1.0) * 0.5 * cosine_bins, cosine_bins - 1).astype(np.int64)
    return PairSums(
        counts_CB=counts_CB,
        sums_C=sums.sum(axis=0),
        squares_C=squares.sum(axis=0),
        self_pairs_C=np.bincount(own_bin_R, minlength=cosine_bins),
    )


def curve(total: PairSums, scores: ScoreRange) -> Curve:
    """The curve that sums over all pairs amount to.

    Args:
        total: of all pairs.
        scores: the range they were counted in.
    """
    cosine_bins = len(total.sums_C)
    counts_C = total.counts_CB.sum(axis=1)
    some_C = np.where(counts_C > 0, counts_C, 1)
    empty_C = counts_C == 0
    mean_C = np.where(empty_C, np.nan, total.sums_C / some_C)
    variance_C = total.squares_C / some_C - mean_C**2
    below_CB = total.counts_CB.cumsum(axis=1)
    quartiles = []
    for share in (0.25, 0.5, 0.75):
        reached_C = (below_CB >= np.maximum(np.ceil(share * counts_C), 1)[:, None]).argmax(axis=1)
        quartiles.append(np.where(empty_C, np.nan, scores.low + (reached_C + 0.5) * scores.step))
    return Curve(
        edges=np.linspace(-1.0, 1.0, cosine_bins + 1),
        counts_C=counts_C,
        self_pairs_C=total.self_pairs_C,
        mean_C=mean_C,
        std_C=np.sqrt(np.maximum(variance_C, 0.0)),
        quartiles_3C=np.stack(quartiles),
        quartile_error=scores.step / 2,
    )


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """Where a curve peaks and where it crosses zero on the way there.

    Attributes:
        peak: cosine at the centre of the bin with the highest mean difference.
        height: that mean.
        crossing: cosine at which the mean, taken linearly between bin centres, last rises through zero before the
            peak; None if it does not.
    """

    peak: float
    height: float
    crossing: float | None


def landmarks(
    edges: Float64Array, counts_C: Int64Array, self_pairs_C: Int64Array, mean_C: Float64Array, *, least: int
) -> Landmarks | None:
    """Find peak and crossing of a curve, pairs of a token with itself left out.

    Args:
        edges: float64 [C + 1], of a `Curve`, as the next three.
        counts_C: int64 [C].
        self_pairs_C: int64 [C].
        mean_C: float64 [C].
        least: pairs that a bin needs to be looked at, 1 or more; fewer have no mean worth the name.

    Returns:
        The landmarks; None if no bin has that many pairs.
    """
    others_C = counts_C - self_pairs_C
    bins = np.flatnonzero(others_C >= least)
    if not len(bins):
        return None
    centre = ((edges[:-1] + edges[1:]) / 2)[bins]
    mean = mean_C[bins] * counts_C[bins] / others_C[bins]
    top = int(mean.argmax())
    rises = np.flatnonzero((mean[:top] <= 0) & (mean[1 : top + 1] > 0))
    crossing = None
    if len(rises):
        left = int(rises[-1])
        part = -mean[left] / (mean[left + 1] - mean[left])
        crossing = float(centre[left] + part * (centre[left + 1] - centre[left]))
    return Landmarks(peak=float(centre[top]), height=float(mean[top]), crossing=crossing)
