"""Answers of the model as it is: their losses, what heads add to them, and what their absence would do at first order.

One pass forward and one backward give all heads at once. The gradient of a prompt's loss by what a head hands to W_O,
times what would take its place less what is there, is the linear estimate of the effect: a preselection and no
measurement.

Shapes: P passages of a batch (prompts, and after them their controls), T positions, A questions of a passage, L layers,
N heads of a layer, H head dimension, D model, W answers looked up, C logits (as it is, centred), O offsets from the
question to a source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qkatlas.pipeline.models.forward import Forward, Hook
from qkatlas.pipeline.passes.components import ATTN, MLP, Component, embeddings
from qkatlas.pipeline.passes.questions import Questions, answer_losses
from qkatlas.pipeline.passes.readout import Readout, logits_of
from qkatlas.pipeline.passes.replacing import embedding_hooks, keep_output

FINAL_NORM, ATTENTION_BIAS = "final_norm", "attn_bias"
"""Components of logits beside those that can be ablated: the final norm's bias, and what attention adds by itself."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one batch shows of the model as it is.

    Attributes:
        losses_PW: float64.
        gradient_PLNH: float64, sum over positions of the gradient of a passage's loss.
        product_PLN: float64, sum over positions of that gradient times what the head hands over.
        resampled_PLN: float64, of it times what the partner's head hands over; zeros without partners.
        sums_LNH: float64, sum over read positions of what heads hand over.
        count: positions in that sum.
        dla_PLNC: float64, what a head adds to the logits of the answers, mean over a passage's questions.
        parts_PC: by component that is no head: the same.
        logits_PC: float64, the logits themselves.
        sources_LNO: float64, sum over prompts and questions of what a head adds to the centred logit, by the offset of
            the position it comes from; controls are left out.
        attention_LNO: float64, the same sum of attention.
        times_O: how often an offset occurs.
        source_PLN: float64, attention from the first question to the answer's source; None without one.
    """

    losses_PW: np.ndarray
    gradient_PLNH: np.ndarray
    product_PLN: np.ndarray
    resampled_PLN: np.ndarray
    sums_LNH: np.ndarray
    count: int
    dla_PLNC: np.ndarray
    parts_PC: Mapping[Component, np.ndarray]
    logits_PC: np.ndarray
    sources_LNO: np.ndarray
    attention_LNO: np.ndarray
    times_O: np.ndarray
    source_PLN: np.ndarray | None


def measure_answers(model: Forward, questions: Questions, readout: Readout, source: int | None) -> Answers:
    """Measure one batch with the model as it is.

    Args:
        model: the model.
        questions: prompts, and after them as many controls.
        readout: of the model.
        source: position of the answers' source.
    """
    a = model.architecture
    kept: dict[Component, torch.Tensor] = {}
    handed: dict[int, torch.Tensor] = {}
    added: dict[int, torch.Tensor] = {}
    values: dict[int, torch.Tensor] = {}
    patterns: dict[int, torch.Tensor] = {}
    start_PTD = model.run(questions.tokens_PT, embedding_hooks(model, kept), stop_at_layer=0)
    hooks: dict[str, Hook] = {}
    for layer in range(a.n_layers):
        hooks |= {
            f"blocks.{layer}.attn.hook_z": _handed(layer, handed, added),
            f"blocks.{layer}.attn.hook_v": _listen(layer, values),
            f"blocks.{layer}.attn.hook_pattern": _listen(layer, patterns),
            model.mlp_hook(layer): keep_output(Component(MLP, layer), kept),
            model.attention_hook(layer): keep_output(Component(ATTN, layer), kept),
        }
    end_PTD = model.go_on(start_PTD, 0, hooks, gradients=True)
    losses_PW = answer_losses(model, end_PTD, questions, gradients=True)
    layers = range(a.n_layers)
    gradients = torch.autograd.grad(losses_PW[:, 0].sum(), [added[layer] for layer in layers])
    read_PT = torch.from_numpy(questions.read_PT).to(model.device)

    handed_LPTNH = [_by_head(handed[layer], a.n_heads) for layer in layers]
    gradients_LPTNH = [_by_head(gradient, a.n_heads) for gradient in gradients]
    resampled = _resampled(model, questions, gradients_LPTNH)
    attributed = _attributed(
        model, questions, readout, end_PTD.detach().double(), handed_LPTNH,
        {component: output.detach() for component, output in kept.items()}, values, patterns, source,
    )  # fmt: skip
    return Answers(
        losses_PW=losses_PW.detach().cpu().numpy(),
        gradient_PLNH=_stacked([gradient.sum(dim=1) for gradient in gradients_LPTNH]),
        product_PLN=_stacked([(g * z).sum(dim=(1, 3)) for g, z in zip(gradients_LPTNH, handed_LPTNH, strict=True)]),
        resampled_PLN=resampled,
        sums_LNH=np.stack([z[read_PT].sum(dim=0).cpu().numpy() for z in handed_LPTNH]),
        count=int(questions.read_PT.sum()),
        **attributed,
    )


def _resampled(model: Forward, questions: Questions, gradients: list[torch.Tensor]) -> np.ndarray:
    """Gradients times what heads hand over in the partners."""
    a = model.architecture
    if questions.partners_PT is None:
        return np.zeros((len(questions.tokens_PT), a.n_layers, a.n_heads))
    others: dict[int, torch.Tensor] = {}
    start_PTD = model.run(questions.partners_PT, {}, stop_at_layer=0)
    hooks = {f"blocks.{layer}.attn.hook_z": _listen(layer, others) for layer in range(a.n_layers)}
    model.go_on(start_PTD, 0, hooks)
    return _stacked([(g * _by_head(others[layer], a.n_heads)).sum(dim=(1, 3)) for layer, g in enumerate(gradients)])


def _attributed(
    model: Forward,
    questions: Questions,
    readout: Readout,
    end_PTD: torch.Tensor,
    handed: list[torch.Tensor],
    kept: Mapping[Component, torch.Tensor],
    values: Mapping[int, torch.Tensor],
    patterns: Mapping[int, torch.Tensor],
    source: int | None,
) -> dict[str, Any]:
    """What each part adds to the logits of the right answers."""
    a = model.architecture
    count, length = questions.tokens_PT.shape
    places_PA = torch.from_numpy(questions.places_PA).to(model.device)
    row_PA = torch.arange(count, device=model.device)[:, None]
    answers_PA = questions.answers_PAW[:, :, 0]
    end_PAD = end_PTD[row_PA, places_PA]
    read_PACD, bias_PAC = readout.directions(answers_PA, end_PAD)

    def meets(output_PTD: torch.Tensor) -> np.ndarray:
        return _mean(torch.einsum("pad,pacd->pac", output_PTD.double()[row_PA, places_PA], read_PACD))

    parts = {component: meets(kept[component]) for component in embeddings(a)}
    parts |= {Component(MLP, layer): meets(kept[Component(MLP, layer)]) for layer in range(a.n_layers)}
    if readout.final.bias_D is not None:
        parts[Component(FINAL_NORM)] = _mean(bias_PAC)
    dla, sources, attention, at_source = [], [], [], []
    half = count // 2
    for layer in range(a.n_layers):
        weight_NHD = model.output_weights(layer).detach().double()
        z_PANH = handed[layer][row_PA, places_PA]
        own_PACD = read_PACD
        if readout.after[layer] is not None:
            own_PACD = readout.before_norm(layer, read_PACD, torch.einsum("panh,nhd->pand", z_PANH, weight_NHD))
        if (bias_D := readout.bias[layer]) is not None:
            bias = torch.from_numpy(bias_D.astype(np.float64)).to(model.device)
            parts[Component(ATTENTION_BIAS, layer)] = _mean(own_PACD @ bias)
        reads_PACNH = torch.einsum("pacd,nhd->pacnh", own_PACD, weight_NHD)
        dla.append(_mean(torch.einsum("panh,pacnh->panc", z_PANH, reads_PACNH)))
        pattern_PNTT = patterns[layer].detach().double()
        v_PTNH = values[layer].detach().double().reshape(count, length, -1, a.d_head)
        v_PTNH = v_PTNH.repeat_interleave(a.n_heads // v_PTNH.shape[2], dim=2)
        share_PANT = pattern_PNTT[row_PA, :, places_PA]
        from_PANT = torch.einsum("ptnh,panh->pant", v_PTNH[:half], reads_PACNH[:half, :, 1]) * share_PANT[:half]
        sources.append(_by_offset(from_PANT, places_PA[:half]))
        attention.append(_by_offset(share_PANT[:half], places_PA[:half]))
        if source is not None:
            at_source.append(share_PANT[:, 0, :, source])
    ones_PANT = torch.ones(half, places_PA.shape[1], 1, length, dtype=torch.float64, device=model.device)
    return {
        "dla_PLNC": np.stack(dla, axis=1),
        "parts_PC": parts,
        "logits_PC": _mean(logits_of(readout, answers_PA, end_PAD)),
        "sources_LNO": np.stack(sources),
        "attention_LNO": np.stack(attention),
        "times_O": _by_offset(ones_PANT, places_PA[:half])[0],
        "source_PLN": _stacked(at_source) if source is not None else None,
    }


def _handed(layer: int, handed: dict[int, torch.Tensor], added: dict[int, torch.Tensor]) -> Hook:
    """A hook that keeps what heads hand to W_O, and adds zeros whose gradient can be asked for."""

    def act(mixed: torch.Tensor) -> torch.Tensor:
        handed[layer] = mixed.detach()
        added[layer] = torch.zeros_like(mixed, requires_grad=True)
        return mixed + added[layer]

    return act


def _listen(layer: int, heard: dict[int, torch.Tensor]) -> Hook:
    def act(activation: torch.Tensor) -> None:
        heard[layer] = activation

    return act


def _by_head(values: torch.Tensor, heads: int) -> torch.Tensor:
    """float64 [P, T, N, H]."""
    return values.detach().double().reshape(*values.shape[:2], heads, -1)


def _by_offset(values_PANT: torch.Tensor, places_PA: torch.Tensor) -> np.ndarray:
    """Sums over prompts and questions, float64 [N, O], by how far a position stands before the question."""
    heads, length = values_PANT.shape[2:]
    offset_PAT = places_PA[:, :, None] - torch.arange(length, device=values_PANT.device)
    before_PAT = offset_PAT >= 0
    sums_ON = values_PANT.new_zeros(length, heads)
    sums_ON.index_add_(0, offset_PAT[before_PAT], values_PANT.transpose(2, 3)[before_PAT])
    return sums_ON.T.cpu().numpy()


def _mean(values_PAX: torch.Tensor) -> np.ndarray:
    """Mean over a passage's questions."""
    return values_PAX.mean(dim=1).cpu().numpy()


def _stacked(of_layers: list[torch.Tensor]) -> np.ndarray:
    """Values of all layers, the layers after the passages."""
    return torch.stack(of_layers, dim=1).cpu().numpy()
