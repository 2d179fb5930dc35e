"""Fidelity: how well scores from token states alone predict a head's real scores on prompts.

Shapes: P prompts, T positions, N heads of a layer, H head dimension, U distinct tokens, D model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import head_inputs, layer_weights
from qkatlas.pipeline.models.layers import capped
from qkatlas.pipeline.models.reach import reach
from qkatlas.pipeline.models.rotary import Rotary
from qkatlas.pipeline.models.weights import Weights

SUMS = ("n", "x", "y", "xx", "yy", "xy")
"""What a correlation of x (predicted) and y (real) is made of; they add up over prompts."""

ROW_SUMS = ("xx", "yy", "xy", "distance", "uniform_distance", "rows")
"""The same within rows: of each row's keys but BOS, x and y less their means; and how far the attention that x gives to
these keys, and uniform attention, are from the real one, in total variation."""

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LayerProjection:
    """Queries and keys of a layer's heads for some tokens.

    Attributes:
        queries_UNH, keys_UNH: float32 [U, N, H], before they are turned by their positions.
        scale: factor from the dot product of a query and a key to their score.
        cap: the score x is cap tanh(x / cap); None = it is x.
        rotary: how queries and keys are turned; None = positions are part of the states.
    """

    queries_UNH: torch.Tensor
    keys_UNH: torch.Tensor
    scale: float
    cap: float | None = None
    rotary: Rotary | None = None

    @classmethod
    def of(cls, weights: Weights, layer: int, states_UD: np.ndarray, *, threads: int) -> LayerProjection:
        """Project the states that enter a layer, as scoring does.

        Args:
            weights: the model.
            layer: the layer.
            states_UD: float32 [U, D].
            threads: threads to use; the result does not depend on it.

        Raises:
            ValueError: if a query, a key or a score would leave the range of float32.
        """
        of_layer = layer_weights(weights, layer)
        inputs = head_inputs(replace(of_layer, rotary=None), states_UD, threads=threads)
        shape = len(states_UD), weights.architecture.n_heads, weights.architecture.d_head
        queries_UNH, keys_UNH = (
            torch.from_numpy(values.reshape(shape)) for values in (inputs.queries_VH, inputs.keys_VH)
        )
        return cls(queries_UNH, keys_UNH, inputs.scale, inputs.cap, of_layer.rotary)

    def scores(self, rows_PT: torch.Tensor) -> torch.Tensor:
        """Predicted scores between the tokens of some prompts.

        Args:
            rows_PT: the tokens, as rows of the projection.

        Returns:
            float64 [P, N, T, T].
        """
        queries_PNTH = self.queries_UNH[rows_PT].transpose(1, 2)
        keys_PNTH = self.keys_UNH[rows_PT].transpose(1, 2)
        if self.rotary is not None:
            position_T = np.arange(rows_PT.shape[1], dtype=np.float64)
            queries_PNTH = self.rotary.turn(queries_PNTH, position_T)
            keys_PNTH = self.rotary.turn(keys_PNTH, position_T)
        scores_PNTT = (queries_PNTH @ keys_PNTH.mT).double() * self.scale
        return capped(scores_PNTT, self.cap)


def correlation_sums(predicted_PNTT: torch.Tensor, real_PNTT: torch.Tensor, window: int | None = None) -> Float64Array:
    """Sums over the positions of some prompts that are read.

    Args:
        predicted_PNTT: scores from token states.
        real_PNTT: the model's pre-softmax scores; entries after the query are not read.
        window: positions that a query reads; None = all before it.

    Returns:
        float64 [N, 6], in order of SUMS.
    """
    query, key = reach(real_PNTT.shape[2], window).nonzero(as_tuple=True)
    x, y = (scores_PNTT[:, :, query, key].double() for scores_PNTT in (predicted_PNTT, real_PNTT))
    sums = [torch.ones_like(x), x, y, x * x, y * y, x * y]
    return torch.stack([values.sum(dim=(0, 2)) for values in sums], dim=1).numpy()


def row_sums(predicted_PNTT: torch.Tensor, real_PNTT: torch.Tensor, window: int | None = None) -> Float64Array:
    """Sums within the rows of some prompts, BOS left out as a key, for what rests on it tells nothing of tokens.

    Args:
        predicted_PNTT: scores from token states.
        real_PNTT: the model's pre-softmax scores; entries after the query are not read.
        window: positions that a query reads; None = all before it.

    Returns:
        float64 [N, 6], in order of ROW_SUMS, over the queries with two such keys or more.
    """
    read_TT = reach(real_PNTT.shape[2], window)
    read_TT[:, 0] = False
    rows = read_TT.sum(dim=1) >= 2
    read_RT = read_TT[rows]
    count_R1 = read_RT.sum(dim=1, keepdim=True)

    def centred(scores_PNRT: torch.Tensor) -> torch.Tensor:
        kept = scores_PNRT.masked_fill(~read_RT, 0.0)
        return (kept - kept.sum(dim=3, keepdim=True) / count_R1).masked_fill(~read_RT, 0.0)

    x, y = (scores_PNTT[:, :, rows].double() for scores_PNTT in (predicted_PNTT, real_PNTT))
    real, guess = (scores.masked_fill(~read_RT, -torch.inf).softmax(dim=3) for scores in (y, x))
    uniform_RT = read_RT.double() / count_R1
    x, y = centred(x), centred(y)
    sums = [x * x, y * y, x * y, (guess - real).abs() / 2, (uniform_RT - real).abs() / 2]
    summed = [values.sum(dim=(0, 2, 3)) for values in sums]
    return torch.stack([*summed, torch.full_like(summed[0], float(len(x) * rows.sum()))], dim=1).numpy()


def row_figures(sums_N6: Float64Array) -> dict[str, Float64Array]:
    """Figures from sums within rows over all prompts.

    Args:
        sums_N6: float64 [N, 6], in order of ROW_SUMS.

    Returns:
        `correlation` within rows, and the mean total variation `distance` and `uniform_distance` of a row; float64 [N]
        each, NaN where nothing varies or there are no rows.
    """
    xx, yy, xy, distance, uniform, rows = sums_N6.T
    varies = (xx > 1e-12) & (yy > 1e-12)
    some = np.where(rows > 0, rows, np.nan)
    return {
        "correlation": np.where(varies, xy / np.sqrt(np.where(varies, xx * yy, 1.0)), np.nan),
        "distance": distance / some,
        "uniform_distance": uniform / some,
    }


def correlation(sums_NM: Float64Array) -> Float64Array:
    """Pearson's correlation from sums over all prompts.

    Args:
        sums_NM: float64 [N, 6], in order of SUMS.

    Returns:
        float64 [N]; NaN where either side does not vary.
    """
    n, x, y, xx, yy, xy = sums_NM.T
    spread = (n * xx - x * x) * (n * yy - y * y)
    # A variance that is only the rounding of its two terms is none.
    varies = (n * xx - x * x > 1e-12 * n * xx) & (n * yy - y * y > 1e-12 * n * yy)
    return np.where(varies, (n * xy - x * y) / np.sqrt(np.where(varies, spread, 1.0)), np.nan)


def rows_of(token_ids: Sequence[int], tokens_PT: npt.NDArray[np.int64]) -> torch.Tensor:
    """Where each token of some prompts stands in a sorted list of distinct tokens."""
    return torch.from_numpy(np.searchsorted(np.asarray(token_ids), tokens_PT))
