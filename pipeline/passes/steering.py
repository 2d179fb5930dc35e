"""A steered head inside the model: its scores are written into the forward pass, and what changes is measured.

Shapes: P prompts of a batch, N heads of a layer, T positions (the first is BOS), D model, R width of the steered form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.circuit.steering import folded
from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text.prompts import CategoryPrompts


@dataclass(frozen=True)
class InModel:
    """What some prompts show of a steered head, one entry a prompt; masses are means over the words as queries.

    Attributes:
        identical_mass_P: attention on the query's own token, at its position and before it.
        category_mass_P: attention on other tokens of the query's category before it.
        bos_mass_P: attention on BOS.
        loss_P: mean next-token loss over all positions but the last, nats.
    """

    identical_mass_P: npt.NDArray[np.float64]
    category_mass_P: npt.NDArray[np.float64]
    bos_mass_P: npt.NDArray[np.float64]
    loss_P: npt.NDArray[np.float64]


def run_steered(model: Forward, head: Head, weights: HeadWeights, prompts: CategoryPrompts) -> InModel:
    """Run some prompts with one head's pre-softmax scores replaced by steered ones.

    The steered scores are those of the states that really enter the head, on all their layers below, with position.

    Args:
        model: the model.
        head: the head.
        weights: its steered projections, as scored in nats (form `attention`).
        prompts: the prompts.

    Returns:
        The measures.
    """
    steered = folded(weights)
    w_q_DR, w_k_DR = np.split(steered.w_qk_D2H, 2, axis=1)
    b_q_R, b_k_R = np.split(steered.b_qk_2H, 2)
    normalised: list[torch.Tensor] = []
    patterns: list[torch.Tensor] = []

    def keep(normalised_PTD: torch.Tensor) -> None:
        normalised.append(normalised_PTD.double())

    def replace(scores_PNTT: torch.Tensor) -> torch.Tensor:
        (n_PTD,) = normalised
        q_PTR, k_PTR = (
            n_PTD @ torch.from_numpy(w).to(n_PTD.device) + torch.from_numpy(b).to(n_PTD.device)
            for w, b in ((w_q_DR, b_q_R), (w_k_DR, b_k_R))
        )
        scores_PTT = q_PTR @ k_PTR.transpose(1, 2) * steered.scale
        causal_TT = torch.ones(scores_PTT.shape[1:], dtype=torch.bool, device=n_PTD.device).tril()
        patterns.append(scores_PTT.masked_fill(~causal_TT, -torch.inf).softmax(dim=-1))
        replaced = scores_PNTT.clone()
        replaced[:, head.index] = torch.where(causal_TT, scores_PTT.to(replaced.dtype), replaced[:, head.index])
        return replaced

    logits_PTV = model.run(
        prompts.tokens_PT,
        {
            f"blocks.{head.layer}.ln1.hook_normalized": keep,
            f"blocks.{head.layer}.attn.hook_attn_scores": replace,
        },
    )
    (pattern,) = patterns
    pattern_PTT = pattern.cpu().numpy()
    tokens_PT = prompts.tokens_PT
    same_PTT = tokens_PT[:, :, None] == tokens_PT[:, None, :]
    category_PTT = prompts.expected_PTT()
    category_PTT[:, :, 0] = False

    def mass(keys_PTT: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = np.where(keys_PTT, pattern_PTT, 0.0).sum(axis=2)[:, 1:].mean(axis=1)
        return found

    bos_PTT = np.zeros_like(same_PTT)
    bos_PTT[:, :, 0] = True
    target = torch.from_numpy(tokens_PT[:, 1:]).to(logits_PTV.device)
    loss_PT = functional.cross_entropy(logits_PTV[:, :-1].double().transpose(1, 2), target, reduction="none")
    return InModel(mass(same_PTT), mass(category_PTT), mass(bos_PTT), loss_PT.mean(dim=1).cpu().numpy())
