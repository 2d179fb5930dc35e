"""Ablation: a component's output is replaced, and the heads above it and the model's predictions are measured again.

What replaces an output, and the stream that follows from it, is in `replacing`.

Shapes: P passages of a batch, T positions, N heads of a layer, H head dimension, D model, S passages of a stack (those
of several ablations one after the other), M components, Z heads that are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from qkatlas.pipeline.models.forward import Forward, Hook, scores_hook
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.components import Component
from qkatlas.pipeline.passes.kinds import KINDS
from qkatlas.pipeline.passes.replacing import (
    MEAN_KINDS,
    Outputs,
    embedding_hooks,
    layer_hooks,
    outputs_of,
    stacks,
    streams_without,
)
from qkatlas.pipeline.passes.semantic import semantic_category_scores
from qkatlas.pipeline.text.passages import Passages

LOGIT_ROWS = 256
"""Tokens whose logits are held at once."""


@dataclass(frozen=True)
class Measurement:
    """What is measured on each passage.

    Attributes:
        heads: heads whose Semantic Category Score is taken, ascending.
        loss: whether the next-token loss is taken.
    """

    heads: tuple[Head, ...]
    loss: bool

    def layers(self, first: int = 0) -> list[int]:
        """Layers of the heads, from a first one on."""
        return sorted({head.layer for head in self.heads if head.layer >= first})


@dataclass(frozen=True)
class Measured:
    """What was measured for some components, in their order.

    Attributes:
        scores_MPZ: float64 [M, P, Z], of the heads of the measurement that every component reaches.
        losses_MP: float64 [M, P], sum over a passage's predicted tokens of -ln p, in nats; None if not asked for.
    """

    scores_MPZ: np.ndarray
    losses_MP: np.ndarray | None


def measure_clean(
    model: Forward, passages: Passages, measurement: Measurement, layers: Sequence[int]
) -> tuple[Measured, dict[Component, np.ndarray]]:
    """Measure the model as it is, and sum the outputs of its components.

    Args:
        model: the model.
        passages: one batch of passages.
        measurement: what to measure.
        layers: layers whose outputs are summed, beside the embeddings.

    Returns:
        What was measured, M = 1, and for the embeddings and each layer's attention, MLP and heads together the sum of
        the output over passages and positions, float64 [D].
    """
    outputs: dict[Component, torch.Tensor] = {}
    scores: dict[int, torch.Tensor] = {}
    start_PTD = model.run(passages.tokens_PT, embedding_hooks(model, outputs), stop_at_layer=0)
    read = measurement.layers()
    depth = None if measurement.loss else max([*layers, *read]) + 1
    hooks = {name: hook for layer in layers for name, hook in layer_hooks(model, layer, outputs).items()}
    hooks |= {scores_hook(layer): _keep_scores(layer, scores, passages, measurement) for layer in read}
    end_PTD = model.go_on(start_PTD, 0, hooks, stop_at_layer=depth)
    losses_MP = _losses(model, end_PTD, passages) if measurement.loss else None
    measured = Measured(_heads(scores, measurement, 0, passages), losses_MP)
    summed = {
        component: output.double().sum(dim=(0, 1)).flatten().cpu().numpy()
        for component, output in outputs.items()
        if component.kind in MEAN_KINDS
    }
    return measured, summed


def measure_ablated(
    model: Forward,
    passages: Passages,
    measurement: Measurement,
    components: Sequence[Component],
    *,
    kind: str,
    means: Mapping[Component, np.ndarray],
) -> Measured:
    """Measure the model with one component ablated at a time.

    Args:
        model: the model.
        passages: one batch of passages.
        measurement: what to measure; heads that the components cannot reach are left out.
        components: components of one layer, or the embeddings.
        kind: one of KINDS.
        means: for `mean`: the mean outputs, float32 [D], by the components of `measure_clean`.

    Returns:
        What was measured.
    """
    assert kind in KINDS, kind
    first = components[0].first_layer_after
    assert all(component.first_layer_after == first for component in components), "components of one layer"
    clean = outputs_of(model, passages.tokens_PT, components[0].layer)
    others: Outputs = {}
    if kind == "resample":
        assert passages.partners_PT is not None, "outputs are resampled from partners"
        others = outputs_of(model, passages.partners_PT, components[0].layer)
    if kind == "mean":
        sources = [source for source in clean if source.kind in MEAN_KINDS]
        others = {source: torch.from_numpy(means[source]).to(model.device) for source in sources}

    count, length = passages.tokens_PT.shape
    done = [
        _measure_stack(model, passages, measurement, stack, clean, others)
        for stack in stacks(components, count * length, model.device)
    ]
    losses = [each.losses_MP for each in done if each.losses_MP is not None]
    return Measured(np.concatenate([each.scores_MPZ for each in done]), np.concatenate(losses) if losses else None)


def _measure_stack(
    model: Forward,
    passages: Passages,
    measurement: Measurement,
    components: Sequence[Component],
    clean: Outputs,
    others: Outputs,
) -> Measured:
    """Measure some ablations in one pass."""
    first = components[0].first_layer_after
    stream_STD = torch.cat(streams_without(model, components, clean, others))
    stacked = _repeated(passages, len(components))
    scores: dict[int, torch.Tensor] = {}
    layers = measurement.layers(first)
    keep = {layer: _keep_scores(layer, scores, stacked, measurement) for layer in layers}

    def visit(layer: int, scores_SNTT: torch.Tensor) -> None:
        keep[layer](scores_SNTT)

    losses_MP = None
    if measurement.loss:
        end_STD = model.go_on(stream_STD, first, {scores_hook(layer): hook for layer, hook in keep.items()})
        losses_MP = _losses(model, end_STD, stacked).reshape(len(components), -1)
    elif layers:
        model.scores_from(stream_STD, first, layers, visit)
    scores_SZ = _heads(scores, measurement, first, stacked)[0]
    return Measured(scores_SZ.reshape(len(components), len(passages.tokens_PT), -1), losses_MP)


def _keep_scores(layer: int, scores: dict[int, torch.Tensor], passages: Passages, measurement: Measurement) -> Hook:
    """A hook that scores a layer's measured heads and keeps the scores, [P, heads of the layer]."""
    heads = [head.index for head in measurement.heads if head.layer == layer]

    def keep(scores_PNTT: torch.Tensor) -> None:
        assert passages.prompts is not None, "scores are taken of category prompts"
        scores[layer] = semantic_category_scores(scores_PNTT[:, heads], passages.prompts)

    return keep


def _heads(scores: Mapping[int, torch.Tensor], measurement: Measurement, first: int, passages: Passages) -> np.ndarray:
    """Scores of all layers side by side, float64 [1, P, Z]."""
    layers = measurement.layers(first)
    if not layers:
        return np.empty((1, len(passages.tokens_PT), 0))
    return torch.cat([scores[layer] for layer in layers], dim=1).cpu().numpy()[None]


def _losses(model: Forward, end_PTD: torch.Tensor, passages: Passages) -> np.ndarray:
    """Sum over each passage's predicted tokens of -ln p, float64 [1, P], from what leaves the last layer."""
    tokens_PT = torch.from_numpy(passages.tokens_PT).to(end_PTD.device)
    stream_RD = end_PTD[:, :-1].reshape(-1, end_PTD.shape[2])
    next_R = tokens_PT[:, 1:].reshape(-1)
    surprisal_R = torch.cat(
        [
            functional.cross_entropy(model.logits(stream_RD[start : start + LOGIT_ROWS]), next_one, reduction="none")
            for start, next_one in zip(range(0, len(next_R), LOGIT_ROWS), next_R.split(LOGIT_ROWS), strict=True)
        ]
    )
    surprisal_PT = surprisal_R.double().cpu().numpy().reshape(len(tokens_PT), -1)
    losses_P: np.ndarray = np.where(passages.predicted_PT[:, 1:], surprisal_PT, 0.0).sum(axis=1)
    return losses_P[None]


def _repeated(passages: Passages, times: int) -> Passages:
    """The same passages several times over."""
    rows = np.tile(np.arange(len(passages.tokens_PT)), times)
    prompts = passages.prompts
    return Passages(
        passages.tokens_PT[rows],
        passages.predicted_PT[rows],
        prompts and prompts[rows],
    )
