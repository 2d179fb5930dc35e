"""Layer 0 up to the pre-activations of its MLP, in float64.

What enters is e_u + p_i, the rows of a token and of a position (rotary models add none); a norm centres each and
divides their sum by sigma[u, i], so that a value is (e_u A + p_i A) / sigma[u, i] + constant with A = diag(gain) W_V.
Shares of attention sum to 1: the constants of all heads come once, whatever is attended to. Behind the second norm a
neuron reads gain_2 * w_j of the centred stream, over that stream's own sigma_2.

Shapes: V vocabulary, D model, T positions, N heads, H width of a head, J neurons, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from qkatlas.pipeline.circuit.projection import HeadWeights, bias_of, gain_of, head_columns, head_weights
from qkatlas.pipeline.circuit.states import embedded
from qkatlas.pipeline.models.architecture import Architecture, Norm
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import Weights
from qkatlas.pipeline.positions.embedded import Embedded


def require_first_mlp(a: Architecture) -> None:
    """Check that the first MLP reads what the heads of layer 0 write, and reads it linearly up to its norm.

    Args:
        a: of the model.

    Raises:
        ValueError: if it does not, naming what is in the way.
    """
    for found, what in (
        (a.parallel, "reads the same stream as the attention beside it (a parallel block), so that no head's output "
                     "reaches its neurons"),
        (a.after_norms, "reads attention outputs that a norm has divided by their own size, so that the heads of a "
                        "group do not add up"),
        (a.score_cap is not None, "stands behind heads that cap their scores, so that attention is no product of "
                                  "position and content"),
    ):  # fmt: skip
        if found:
            raise ValueError(
                f"the first MLP of this model (family {a.family}) {what}: extended embeddings do not exist there; "
                "submit neurons takes GPT-2 and sequential rotary models"
            )


@dataclass(frozen=True, kw_only=True)
class FirstBlock:
    """Weights of layer 0, folded; float64.

    Attributes:
        architecture: of the model.
        rows: what enters; rows of positions are 0 where positions are rotary.
        heads: what makes queries and keys, by head.
        value_NDH: A of each head.
        output_NHD: from a head's mixed values to the residual stream.
        constant_D: what attention adds whatever is attended to: values' constants and the output's bias.
        norm_2: the norm in front of the MLP, without its gain and bias.
        read_JD: what a neuron reads of the normalised stream, the norm's gain folded in.
        bias_J: a neuron's bias, with what it reads of the norm's own bias.
        write_JD: what a neuron's activation is multiplied by, float32.
    """

    architecture: Architecture
    rows: Embedded
    heads: tuple[HeadWeights, ...]
    value_NDH: torch.Tensor
    output_NHD: torch.Tensor
    constant_D: torch.Tensor
    norm_2: Norm
    read_JD: torch.Tensor
    bias_J: torch.Tensor
    write_JD: np.ndarray

    @classmethod
    def of(cls, weights: Weights, length: int) -> FirstBlock:
        """Read a model's first block.

        A gated MLP's neuron is what its activation is applied to.

        Args:
            weights: the model.
            length: positions that are taken, T.

        Raises:
            ValueError: if the first MLP does not read what the heads write; see `require_first_mlp`.
        """
        a, family = weights.architecture, family_of(weights.architecture)
        require_first_mlp(a)
        heads = tuple(head_weights(weights, Head(0, index)) for index in range(a.n_heads))
        mixing, block = family.value_output(weights, 0), family.mlp(weights, 0)
        group = a.n_heads // a.n_kv_heads
        w_v_NDH, b_v_NH, w_o_NHD = [], [], []
        for index in range(a.n_heads):
            values = head_columns([index // group], a)
            w_v_NDH.append(mixing.values.weight_DP[:, values].astype(np.float64))
            b_v_NH.append(bias_of(mixing.values, values).astype(np.float64))
            w_o_NHD.append(mixing.output.weight_DP[head_columns([index], a)].astype(np.float64))
        gain_D, shift_D = heads[0].gain_D, heads[0].shift_D
        every = np.arange(a.d_model)
        constant_D = bias_of(mixing.output, every).astype(np.float64)
        for w_v_DH, b_v_H, w_o_HD in zip(w_v_NDH, b_v_NH, w_o_NHD, strict=True):
            constant_D = constant_D + (shift_D @ w_v_DH + b_v_H) @ w_o_HD
        w_in_DJ = block.inside.weight_DP.astype(np.float64)
        shift_2_D = np.zeros(a.d_model) if block.norm.bias_D is None else block.norm.bias_D.astype(np.float64)
        if a.rotary is None:
            rows = Embedded.of(weights, length)
        else:
            none_TD = np.zeros((length, a.d_model), np.float32)
            rows = Embedded(token_VD=embedded(weights, None, None), position_TD=none_TD, norm=heads[0].norm)
        return cls(
            architecture=a,
            rows=rows,
            heads=heads,
            value_NDH=torch.from_numpy(np.stack([gain_D[:, None] * w_v_DH for w_v_DH in w_v_NDH])),
            output_NHD=torch.from_numpy(np.stack(w_o_NHD)),
            constant_D=torch.from_numpy(constant_D),
            norm_2=block.norm.norm,
            read_JD=torch.from_numpy(np.ascontiguousarray((gain_of(block.norm)[:, None] * w_in_DJ).T)),
            bias_J=torch.from_numpy(bias_of(block.inside, np.arange(w_in_DJ.shape[1])) + shift_2_D @ w_in_DJ),
            write_JD=block.outside.weight_DP,
        )

    def centred(self, stream_RD: torch.Tensor) -> torch.Tensor:
        """A stream as the second norm divides it: centred over D where it is a LayerNorm."""
        return stream_RD - stream_RD.mean(dim=-1, keepdim=True) if self.norm_2.kind == "layer" else stream_RD

    def scale_2(self, stream_RD: torch.Tensor) -> torch.Tensor:
        """sigma_2 of some streams, float64 [R]; already as `centred` gives them."""
        return (stream_RD.square().mean(dim=-1) + self.norm_2.eps).sqrt()

    def token_scale(self, token_RD: torch.Tensor, position_RD: torch.Tensor) -> torch.Tensor:
        """1 / sigma[u, i] of tokens each at its own position, float64 [R]; both as the first norm adds them up."""
        return ((token_RD + position_RD).square().mean(dim=1) + self.heads[0].eps).rsqrt()

    def write(self, mixed_NRH: torch.Tensor, heads: list[int]) -> torch.Tensor:
        """What some heads add to the stream, float64 [R, D].

        Args:
            mixed_NRH: float64 [N, R, H], of all heads.
            heads: which of them.
        """
        found_RD = torch.zeros((mixed_NRH.shape[1], self.output_NHD.shape[2]), dtype=torch.float64)
        for head in heads:
            found_RD += mixed_NRH[head] @ self.output_NHD[head]
        return found_RD
