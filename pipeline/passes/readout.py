"""How the final norm and the unembedding read a part of the residual stream: direct logit attribution.

The final norm divides by one number for each position, sigma. With the real one held fixed a logit is linear in what
every part of the model wrote, so that logits are sums over parts, exactly. Two logits are attributed: the answer's own,
and that less the mean over the vocabulary, which is what probabilities know of it. A soft cap comes after.

Shapes: P passages, A questions of a passage, D model, N heads of a layer, H head dimension, C logits: own, centred.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from qkatlas.pipeline.circuit.ov import Unembedding, unembedding_of
from qkatlas.pipeline.circuit.projection import gain_of
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.family import NormWeights
from qkatlas.pipeline.models.layers import standardised
from qkatlas.pipeline.models.weights import Weights


@dataclass(frozen=True)
class Readout:
    """The final norm and the unembedding of a model, in float64.

    Attributes:
        unembedding: its rows, their mean and the final norm's gain.
        final: the final norm.
        after: by layer, the norm of what attention adds; None where there is none.
        bias: by layer, what attention adds whatever its heads do, [D]; None where there is none.
    """

    unembedding: Unembedding
    final: NormWeights
    after: tuple[NormWeights | None, ...]
    bias: tuple[np.ndarray | None, ...]

    @classmethod
    def of(cls, weights: Weights) -> Readout:
        """Read it from a model's weights."""
        a, family = weights.architecture, family_of(weights.architecture)
        mixing = [family.value_output(weights, layer) for layer in range(a.n_layers)]
        return cls(
            unembedding=unembedding_of(weights, "folded"),
            final=family.final_norm(weights),
            after=tuple(one.after for one in mixing),
            bias=tuple(one.output.bias_P for one in mixing),
        )

    def directions(self, answers_PA: np.ndarray, end_PAD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a part of the stream is multiplied by to see what it adds to the logits of answers.

        Args:
            answers_PA: int64, the answers.
            end_PAD: float64, what leaves the last layer there.

        Returns:
            float64 [P, A, C, D], and what the final norm's own bias adds, [P, A, C].
        """
        device = end_PAD.device
        rows_PAD = torch.from_numpy(self.unembedding.rows_VD[answers_PA].astype(np.float64)).to(device)
        mean_D = torch.from_numpy(self.unembedding.mean_D).to(device)
        rows_PACD = torch.stack([rows_PAD, rows_PAD - mean_D], dim=2)
        read_PACD = rows_PACD * torch.from_numpy(self.unembedding.gain_D).to(device)
        norm = self.final.norm
        if self.unembedding.centres:
            read_PACD = read_PACD - read_PACD.mean(dim=3, keepdim=True)
            square_PA = end_PAD.var(dim=2, correction=0)
        else:
            square_PA = end_PAD.square().mean(dim=2)
        sigma_PA = torch.sqrt(square_PA + norm.eps)
        bias_PAC = rows_PACD.new_zeros(rows_PACD.shape[:3])
        if self.final.bias_D is not None:
            bias_PAC = rows_PACD @ torch.from_numpy(self.final.bias_D.astype(np.float64)).to(device)
        return read_PACD / sigma_PA[:, :, None, None], bias_PAC

    def before_norm(self, layer: int, read_PACD: torch.Tensor, heads_PAND: torch.Tensor) -> torch.Tensor:
        """What attention's own parts are multiplied by, where the model normalises what attention adds.

        That norm, too, divides by one number for each position.

        Args:
            layer: the layer.
            read_PACD: what the stream is multiplied by.
            heads_PAND: what each head adds in front of that norm.

        Returns:
            float64 [P, A, C, D].
        """
        after = self.after[layer]
        if after is None:
            return read_PACD
        added_PAD = heads_PAND.sum(dim=2)
        if (bias_D := self.bias[layer]) is not None:
            added_PAD = added_PAD + torch.from_numpy(bias_D.astype(np.float64)).to(added_PAD.device)
        assert after.norm.kind == "rms", "families that normalise what attention adds do so by its root mean square"
        scale_PA = torch.rsqrt(added_PAD.square().mean(dim=2) + after.norm.eps)
        gain_D = torch.from_numpy(gain_of(after).astype(np.float64)).to(added_PAD.device)
        return read_PACD * gain_D * scale_PA[:, :, None, None]


def logits_of(readout: Readout, answers_PA: np.ndarray, end_PAD: torch.Tensor) -> torch.Tensor:
    """Both logits of answers at once, from the whole stream: what all parts together add.

    Args:
        readout: of the model.
        answers_PA: int64, the answers.
        end_PAD: float64, what leaves the last layer there.

    Returns:
        float64 [P, A, C].
    """
    norm_PAD = standardised(end_PAD, readout.final.norm)
    gain_D, mean_D = (torch.from_numpy(one).to(end_PAD.device) for one in
                      (readout.unembedding.gain_D, readout.unembedding.mean_D))  # fmt: skip
    normed_PAD = norm_PAD * gain_D
    if readout.final.bias_D is not None:
        normed_PAD = normed_PAD + torch.from_numpy(readout.final.bias_D.astype(np.float64)).to(end_PAD.device)
    rows_PAD = torch.from_numpy(readout.unembedding.rows_VD[answers_PA].astype(np.float64)).to(end_PAD.device)
    own_PA = (normed_PAD * rows_PAD).sum(dim=2)
    return torch.stack([own_PA, own_PA - normed_PAD @ mean_D], dim=2)
