"""The OV circuit of one head: what attending to a token adds to the logit of every token.

    OV[u, t] = value_u . out_t,  value_u = norm(X_u) W_V + b_V,  out_t = W_O (gamma * (U_t - mean U))

X are token states in front of the head's layer, U the unembedding, gamma the final norm's gain. Three things are folded
into `out`: the gain, the centring over D of what is written, where the final norm is a LayerNorm, and the centring of
the unembedding over the vocabulary, which moves no probability. So OV is what attending to u adds to the logit of t, up
to the final norm's scale, which is one positive number for all tokens. `raw` folds none of the three. Where a model
normalises what attention adds (Gemma 2 and 3), that norm's gain is folded in any case, and its scale is left out.

Shapes: V vocabulary, D model, H head dimension, R rows of one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from qkatlas.pipeline.circuit.kinds import RAW, UNEMBEDDINGS
from qkatlas.pipeline.circuit.projection import bias_of, gain_of, head_columns, require_representable
from qkatlas.pipeline.models.architecture import Norm
from qkatlas.pipeline.models.blocks import BLOCK_ROWS, for_blocks
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.family import UNEMBEDDING
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.layers import standardised
from qkatlas.pipeline.models.weights import Weights


@dataclass(frozen=True)
class Unembedding:
    """The unembedding, and how it is read.

    Attributes:
        rows_VD: float32 [V, D], as stored.
        mean_D: float64, what is taken off every row; zeros where it is read raw.
        gain_D: float64, of the final norm; ones where it is read raw.
        centres: whether what is written is centred over D.
    """

    rows_VD: Float32[np.ndarray, "V D"]
    mean_D: Float64[np.ndarray, " D"]
    gain_D: Float64[np.ndarray, " D"]
    centres: bool

    def centred(self) -> Float32[np.ndarray, "V D"]:
        """The rows less their mean, rounded once."""
        centred_VD = np.empty_like(self.rows_VD)
        for start in range(0, len(centred_VD), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            centred_VD[rows] = self.rows_VD[rows].astype(np.float64) - self.mean_D
        return centred_VD


@dataclass(frozen=True)
class OvWeights:
    """What turns states into the values of one head, and rows of the unembedding into what its values meet; float64.

    Attributes:
        gain_D, shift_D: the layer norm's gain and bias as applied to the states.
        norm: that norm.
        w_v_DH, b_v_H: projection to values.
        w_out_DH, b_out_H: from rows of the unembedding, as stored, to outputs; all folding is in them.
    """

    gain_D: Float64[np.ndarray, " D"]
    shift_D: Float64[np.ndarray, " D"]
    norm: Norm
    w_v_DH: Float64[np.ndarray, "D H"]
    b_v_H: Float64[np.ndarray, " H"]
    w_out_DH: Float64[np.ndarray, "D H"]
    b_out_H: Float64[np.ndarray, " H"]

    @property
    def form(self) -> tuple[Float64[np.ndarray, "D H"], Float64[np.ndarray, "D H"]]:
        """Factors A, B of the head's form on normalised states n and centred unembedding rows u: n A B^T u^T."""
        return self.gain_D[:, None] * self.w_v_DH, self.w_out_DH


@dataclass(frozen=True)
class OvInputs:
    """Values of attended tokens and outputs of written ones; their products are OV.

    Attributes:
        values_VH: float32 [V, H].
        outputs_VH: float32 [V, H].
    """

    values_VH: Float32[np.ndarray, "V H"]
    outputs_VH: Float32[np.ndarray, "V H"]


def unembedding_of(weights: Weights, unembed: str) -> Unembedding:
    """Read a model's unembedding.

    Args:
        weights: the model.
        unembed: `folded` or `raw`.

    Raises:
        ValueError: if the way to read it is unknown.
    """
    if unembed not in UNEMBEDDINGS:
        raise ValueError(f"unembed {unembed!r} is unknown; choose one of {', '.join(UNEMBEDDINGS)}")
    a, family = weights.architecture, family_of(weights.architecture)
    rows_VD = weights.tensor(family.embedding if a.tied else UNEMBEDDING)
    if unembed == RAW:
        return Unembedding(rows_VD, np.zeros(a.d_model), np.ones(a.d_model), centres=False)
    final = family.final_norm(weights)
    # Blocks of fixed length, so that the order of the sum is one.
    blocks = [rows_VD[start : start + BLOCK_ROWS] for start in range(0, len(rows_VD), BLOCK_ROWS)]
    mean_D = np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks], axis=0) / len(rows_VD)
    return Unembedding(rows_VD, mean_D, gain_of(final), centres=final.norm.kind == "layer")


def ov_weights(weights: Weights, head: Head, unembedding: Unembedding) -> OvWeights:
    """Read what a head's OV table is made of.

    Args:
        weights: the model.
        head: the head.
        unembedding: the model's, and how it is read.

    Raises:
        ValueError: if the head is outside the model.
    """
    a, family = weights.architecture, family_of(weights.architecture)
    head.require_inside(a.n_layers, a.n_heads)
    entering = family.query_key(weights, head.layer).norm
    mixing = family.value_output(weights, head.layer)
    values = head_columns([head.index // (a.n_heads // a.n_kv_heads)], a)
    write_HD = mixing.output.weight_DP[head_columns([head.index], a)].astype(np.float64)
    if mixing.after is not None:
        write_HD = write_HD * gain_of(mixing.after)
    if unembedding.centres:
        write_HD = write_HD - write_HD.mean(axis=1, keepdims=True)
    w_out_DH = np.ascontiguousarray((write_HD * unembedding.gain_D).T)
    gain_D = gain_of(entering)
    return OvWeights(
        gain_D=gain_D,
        shift_D=np.zeros_like(gain_D) if entering.bias_D is None else entering.bias_D.astype(np.float64),
        norm=entering.norm,
        w_v_DH=np.ascontiguousarray(mixing.values.weight_DP[:, values], dtype=np.float64),
        b_v_H=bias_of(mixing.values, values).astype(np.float64),
        w_out_DH=w_out_DH,
        b_out_H=-(unembedding.mean_D @ w_out_DH),
    )


def ov_inputs(
    weights: OvWeights,
    states_VD: Float32[np.ndarray, "V D"],
    unembedding_VD: Float32[np.ndarray, "V D"],
    *,
    threads: int,
) -> OvInputs:
    """Values of states, and outputs of the vocabulary.

    Args:
        weights: of the head.
        states_VD: float32 [V, D], the states that enter the head's layer.
        unembedding_VD: float32 [V, D], `Unembedding.rows_VD`.
        threads: threads to use; the result does not depend on it.

    Raises:
        ValueError: if a value, an output or a product of theirs would leave the range of float32.
    """
    d_head = len(weights.b_v_H)
    values_VH, outputs_VH = (np.empty((len(rows), d_head), np.float32) for rows in (states_VD, unembedding_VD))
    gain_D, shift_D, w_v_DH, b_v_H, w_out_DH, b_out_H = (
        torch.from_numpy(getattr(weights, name))
        for name in ("gain_D", "shift_D", "w_v_DH", "b_v_H", "w_out_DH", "b_out_H")
    )

    def values(rows: slice) -> None:
        x_RD = torch.from_numpy(states_VD[rows].astype(np.float64))
        normed_RD = standardised(x_RD, weights.norm, gain_D, shift_D if weights.norm.kind == "layer" else None)
        values_VH[rows] = torch.addmm(b_v_H, normed_RD, w_v_DH)

    def outputs(rows: slice) -> None:
        outputs_VH[rows] = torch.addmm(b_out_H, torch.from_numpy(unembedding_VD[rows].astype(np.float64)), w_out_DH)

    for_blocks(len(states_VD), values, threads)
    for_blocks(len(unembedding_VD), outputs, threads)
    require_representable({"value": values_VH, "output": outputs_VH}, 1.0)
    return OvInputs(values_VH, outputs_VH)
