"""Layer 0 of models with learned positions, taken apart exactly: no number of it rests on text.

What enters is the sum of a token's row and a position's row. A norm centres each and divides their sum by
sigma[u, i] = sqrt((|e_u|^2 + |p_i|^2 + 2 e_u . p_i) / D + eps), so that with r = w / sigma the mean input at position i
over tokens of weights w is sum_u r[u, i] e_u + (sum_u r[u, i]) p_i: two matrix products for all positions, whatever
the number of heads.

Shapes: V vocabulary, D model, T positions, N heads, H width of a head, R queries or rows of a block, U tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.circuit.states import embedded
from qkatlas.pipeline.models.architecture import Norm
from qkatlas.pipeline.models.blocks import BLOCK_ROWS, for_blocks
from qkatlas.pipeline.models.gpt2 import POSITIONS
from qkatlas.pipeline.models.weights import Weights

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The rows of tokens and of positions, which together enter layer 0.

    Attributes:
        token_VD: float32 [V, D], as the model scales them.
        position_TD: float32 [T, D].
        norm: of layer 0.
    """

    token_VD: npt.NDArray[np.float32]
    position_TD: npt.NDArray[np.float32]
    norm: Norm

    @classmethod
    def of(cls, weights: Weights, length: int) -> Embedded:
        """Those of a model with learned positions.

        Args:
            weights: the model.
            length: positions that are taken, T.
        """
        position_TD = weights.tensor(POSITIONS)[:length]
        return cls(token_VD=embedded(weights, None, None), position_TD=position_TD, norm=weights.architecture.norm)

    def positions(self) -> torch.Tensor:
        """Rows of positions as the norm adds them up, float64 [T, D]."""
        return self._centred(self.position_TD)

    def tokens(self, rows: slice | IntArray) -> torch.Tensor:
        """Rows of some tokens as the norm adds them up, float64 [R, D]."""
        return self._centred(self.token_VD[rows])

    def inverse_scale(self, token_RD: torch.Tensor, position_TD: torch.Tensor) -> torch.Tensor:
        """1 / sigma[u, i] of some tokens at all positions, float64 [R, T]; both as the norm adds them up."""
        squares_RT = token_RD.square().sum(dim=1)[:, None] + position_TD.square().sum(dim=1)
        product_RT = torch.addmm(squares_RT, token_RD, position_TD.T, alpha=2.0)
        return (product_RT / token_RD.shape[1] + self.norm.eps).rsqrt()

    def mean_input(self, weight_V: Float64Array, *, threads: int) -> Float64Array:
        """What the norm makes of layer 0's input at each position, mean over tokens.

        Args:
            weight_V: float64 [V], weights of the tokens, which sum to 1.
            threads: threads to use; the result does not depend on it.

        Returns:
            float64 [T, D], before the norm's own gain and bias.
        """
        of_tokens_TD, scale_T = self.mean_parts(weight_V, threads=threads)
        found: Float64Array = (of_tokens_TD + scale_T[:, None] * self.positions()).numpy()
        return found

    def mean_parts(self, weight_V: Float64Array, *, threads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same in two parts: what tokens give of it, and what a position's own row is multiplied by.

        Args:
            weight_V: float64 [V], weights of the tokens, which sum to 1.
            threads: threads to use; the result does not depend on it.

        Returns:
            float64 [T, D], and [T]: the mean over tokens of 1 / sigma.
        """
        position_TD = self.positions()
        weight = torch.from_numpy(weight_V)
        blocks = -(-len(weight_V) // BLOCK_ROWS)
        sums: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * blocks

        def add_up(rows: slice) -> None:
            token_RD = self.tokens(rows)
            r_RT = self.inverse_scale(token_RD, position_TD) * weight[rows, None]
            sums[rows.start // BLOCK_ROWS] = r_RT.T @ token_RD, r_RT.sum(dim=0)

        for_blocks(len(weight_V), add_up, threads)
        of_tokens_TD, scale_T = torch.zeros_like(position_TD), torch.zeros(len(position_TD), dtype=torch.float64)
        for one in sums:
            assert one is not None
            of_tokens_TD += one[0]
            scale_T += one[1]
        return of_tokens_TD, scale_T

    def scales(self, *, every: int = 1) -> tuple[float, float, float]:
        """What the norm divides by, over all tokens and some positions.

        Args:
            every: every so many positions are taken, from the first on.

        Returns:
            Its 5th percentile, mean and 95th percentile.
        """
        position_TD = self.positions()[::every]
        sigma_VT = np.empty((len(self.token_VD), len(position_TD)))

        def measure(rows: slice) -> None:
            sigma_VT[rows] = self.inverse_scale(self.tokens(rows), position_TD).reciprocal()

        for_blocks(len(sigma_VT), measure, 1)
        low, high = np.quantile(sigma_VT, (0.05, 0.95))
        return float(low), float(sigma_VT.mean()), float(high)

    def inputs_at(self, token_ids: slice | Sequence[int], position: int) -> torch.Tensor:
        """Layer 0's input for some tokens at one position, float64 [R, D], in front of the norm."""
        rows = token_ids if isinstance(token_ids, slice) else np.asarray(token_ids, np.int64)
        return torch.from_numpy(self.token_VD[rows].astype(np.float64) + self.position_TD[position])

    def _centred(self, rows_RD: npt.NDArray[np.float32]) -> torch.Tensor:
        values_RD = torch.from_numpy(rows_RD.astype(np.float64))
        return values_RD - values_RD.mean(dim=1, keepdim=True) if self.norm.kind == "layer" else values_RD


def mean_heads(weights: HeadWeights, input_TD: Float64Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean queries and keys of a head from mean inputs, float64 [T, H] each; the projections are linear.

    Args:
        weights: of the head, which normalises no queries or keys.
        input_TD: float64 [T, D], `Embedded.mean_input`.
    """
    assert weights.query_gain_H is None, "norms of queries and keys are not linear"
    projected_T2H = (input_TD * weights.gain_D + weights.shift_D) @ weights.w_qk_D2H + weights.b_qk_2H
    query_TH, key_TH = (torch.from_numpy(np.ascontiguousarray(half)) for half in np.split(projected_T2H, 2, axis=1))
    return query_TH, key_TH


@dataclass(frozen=True, kw_only=True)
class ExactKeys:
    """Keys of some tokens at every position, in parts: key[u, i] = (a_u + b_i) / sigma[u, i] + constant.

    Attributes:
        of_token_UH: a, float64 [U, H].
        of_position_TH: b, float64 [T, H].
        inverse_scale_UT: 1 / sigma, float64 [U, T].
        constant_H: float64 [H].
        scale: factor from the dot product of a query and a key to their score.
    """

    of_token_UH: torch.Tensor
    of_position_TH: torch.Tensor
    inverse_scale_UT: torch.Tensor
    constant_H: torch.Tensor
    scale: float

    @classmethod
    def of(
        cls,
        weights: HeadWeights,
        token_UD: torch.Tensor,
        position_TD: torch.Tensor,
        inverse_scale_UT: torch.Tensor,
    ) -> ExactKeys:
        """Those of a head.

        Args:
            weights: of the head.
            token_UD: `Embedded.tokens`.
            position_TD: `Embedded.positions`.
            inverse_scale_UT: `Embedded.inverse_scale` of both, which all heads share.
        """
        half = weights.w_qk_D2H.shape[1] // 2
        w_k_DH = weights.w_qk_D2H[:, half:]
        folded_DH = torch.from_numpy(weights.gain_D[:, None] * w_k_DH)
        return cls(
            of_token_UH=token_UD @ folded_DH,
            of_position_TH=position_TD @ folded_DH,
            inverse_scale_UT=inverse_scale_UT,
            constant_H=torch.from_numpy(weights.shift_D @ w_k_DH + weights.b_qk_2H[half:]),
            scale=weights.scale,
        )

    def scores(self, query_RH: torch.Tensor) -> torch.Tensor:
        """Scores of queries with every token at every position, float64 [R, U, T], in nats."""
        dots_RUT = (query_RH @ self.of_token_UH.T)[:, :, None] + (query_RH @ self.of_position_TH.T)[:, None]
        return self.scale * (dots_RUT * self.inverse_scale_UT + (query_RH @ self.constant_H)[:, None, None])

    def content(self, query_RH: torch.Tensor, share_RT: torch.Tensor, kappa_RT: torch.Tensor) -> torch.Tensor:
        """Logarithm of each token's content factor: the mean of c = score - kappa over the pattern of a query.

        Args:
            query_RH: float64 [R, H].
            share_RT: float64 [R, T], their positional patterns.
            kappa_RT: float64 [R, T], the positional parts of their scores.

        Returns:
            float64 [R, U], in nats.
        """
        inverse_TU = self.inverse_scale_UT.T
        of_token_RU = (query_RH @ self.of_token_UH.T) * (share_RT @ inverse_TU)
        of_position_RU = (share_RT * (query_RH @ self.of_position_TH.T)) @ inverse_TU
        constant_R1 = (query_RH @ self.constant_H)[:, None]
        return self.scale * (of_token_RU + of_position_RU + constant_R1) - (share_RT * kappa_RT).sum(1, keepdim=True)

    def square(self, query_RH: torch.Tensor, share_RT: torch.Tensor, kappa_RT: torch.Tensor) -> torch.Tensor:
        """Mean square of c over the pattern of a query, for each token; arguments as of `content`, float64 [R, U]."""
        a_RU = query_RH @ self.of_token_UH.T
        b_RT = query_RH @ self.of_position_TH.T
        # c = s a / sigma + s b / sigma + g, where g = s q . constant - kappa depends on the position alone.
        g_RT = self.scale * (query_RH @ self.constant_H)[:, None] - kappa_RT
        inverse_TU, square_TU = self.inverse_scale_UT.T, self.inverse_scale_UT.T.square()
        s = self.scale
        return (
            s**2 * (a_RU**2 * (share_RT @ square_TU) + 2 * a_RU * ((share_RT * b_RT) @ square_TU))
            + s**2 * ((share_RT * b_RT**2) @ square_TU)
            + 2 * s * (a_RU * ((share_RT * g_RT) @ inverse_TU) + (share_RT * g_RT * b_RT) @ inverse_TU)
            + (share_RT * g_RT**2).sum(dim=1, keepdim=True)
        )
