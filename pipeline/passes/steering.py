"""A steered head inside the model: its scores are written into the forward pass, and what changes is measured.

Shapes: P prompts of a batch, N heads of a layer, T positions (the first is BOS), D model, R width of the steered form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.circuit.steering import folded
from qkatlas.pipeline.models.forward import Forward, scores_hook
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.layers import standardised
from qkatlas.pipeline.models.reach import reach
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
    project = _projections(weights)

    def score(normalised_PTD: torch.Tensor) -> torch.Tensor:
        q_PTR, k_PTR = project(normalised_PTD, normalised_PTD)
        return q_PTR @ k_PTR.transpose(1, 2) * weights.scale

    return _run(model, head, f"blocks.{head.layer}.ln1.hook_normalized", score, prompts)


def run_steered_at_distances(
    model: Forward, head: Head, steered: Sequence[HeadWeights], prompts: CategoryPrompts
) -> InModel:
    """The same in a model that turns queries and keys: every score is that of the form at its own distance.

    Args:
        model: the model.
        head: the head.
        steered: its steered projections at each distance between a query and a key, as `EveryOffset` gives them.
        prompts: the prompts, of no more positions than the head reads distances.

    Returns:
        The measures.
    """
    own = steered[0]
    projects = [_projections(weights) for weights in steered]

    def score(stream_PTD: torch.Tensor) -> torch.Tensor:
        n_PTD = standardised(stream_PTD, own.norm)
        length = n_PTD.shape[1]
        scores_PTT = n_PTD.new_zeros((len(n_PTD), length, length))
        for distance, project in enumerate(projects[:length]):
            query_Q = torch.arange(distance, length, device=n_PTD.device)
            q_PQR, k_PQR = project(n_PTD[:, distance:], n_PTD[:, : length - distance])
            scores_PTT[:, query_Q, query_Q - distance] = (q_PQR * k_PQR).sum(dim=2) * own.scale
        return scores_PTT if own.cap is None else own.cap * torch.tanh(scores_PTT / own.cap)

    return _run(model, head, f"blocks.{head.layer}.hook_resid_pre", score, prompts)


Scored = Callable[[torch.Tensor], torch.Tensor]
"""Steered scores [P, T, T] of what a hook hands out, both float64."""


def _projections(weights: HeadWeights) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Steered queries and keys, [.., R] each, of the normalised states of query and key tokens, [.., D]."""
    steered = folded(weights)
    parts = zip(np.split(steered.w_qk_D2H, 2, axis=1), np.split(steered.b_qk_2H, 2), strict=True)
    (w_q_DR, b_q_R), (w_k_DR, b_k_R) = ((torch.from_numpy(w), torch.from_numpy(b)) for w, b in parts)

    def project(queries: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        device = queries.device
        return (
            queries @ w_q_DR.to(device) + b_q_R.to(device),
            keys @ w_k_DR.to(device) + b_k_R.to(device),
        )

    return project


def _run(model: Forward, head: Head, hook: str, score: Scored, prompts: CategoryPrompts) -> InModel:
    """Run some prompts with a head's scores replaced by those of what enters its layer at a hook."""
    entered: list[torch.Tensor] = []
    patterns: list[torch.Tensor] = []
    window = model.architecture.window_of(head.layer)

    def keep(entering_PTD: torch.Tensor) -> None:
        entered.append(entering_PTD.double())

    def replace(scores_PNTT: torch.Tensor) -> torch.Tensor:
        (entering_PTD,) = entered
        scores_PTT = score(entering_PTD)
        read_TT = reach(scores_PTT.shape[1], window, device=scores_PTT.device)
        patterns.append(scores_PTT.masked_fill(~read_TT, -torch.inf).softmax(dim=-1))
        replaced = scores_PNTT.clone()
        replaced[:, head.index] = torch.where(read_TT, scores_PTT.to(replaced.dtype), replaced[:, head.index])
        return replaced

    logits_PTV = model.run(prompts.tokens_PT, {hook: keep, scores_hook(head.layer): replace})
    (pattern,) = patterns
    pattern_PTT = pattern.cpu().numpy()
    tokens_PT = prompts.tokens_PT
    same_PTT = tokens_PT[:, :, None] == tokens_PT[:, None, :]
    category_PTT, queries_PT = prompts.expected_PTT(), prompts.queries_PT()
    category_PTT[:, :, 0] = False

    def mass(keys_PTT: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        mass_PT = np.where(keys_PTT, pattern_PTT, 0.0).sum(axis=2)
        found: npt.NDArray[np.float64] = (
            mass_PT[:, 1:].mean(axis=1)
            if queries_PT is None
            else np.array([of_T[own_T].mean() for of_T, own_T in zip(mass_PT, queries_PT, strict=True)])
        )
        return found

    bos_PTT = np.zeros_like(same_PTT)
    bos_PTT[:, :, 0] = True
    target = torch.from_numpy(tokens_PT[:, 1:]).to(logits_PTV.device)
    loss_PT = functional.cross_entropy(logits_PTV[:, :-1].double().transpose(1, 2), target, reduction="none")
    return InModel(mass(same_PTT), mass(category_PTT), mass(bos_PTT), loss_PT.mean(dim=1).cpu().numpy())
