"""Ablation: a component's output is replaced, and the heads above it and the model's predictions are measured again.

A layer's ablations all begin at what the model as it is computed there: the residual stream, and each component's
output, are taken once by TransformerBridge's hooks. The stream differs from then on by the replaced output alone, and
what reads it is run: the layer's MLP, where attention was replaced, and the layers above, up to the last one asked
about.

Shapes: P passages of a batch, T positions, N heads of a layer, H head dimension, D model, S passages of a stack (those
of several ablations one after the other), M components, Z heads that are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from qkatlas.pipeline.models.forward import Forward, Hook, scores_hook
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.components import (
    ATTN,
    EMBED,
    HEAD,
    MLP,
    MLP_RESIDUAL,
    POS_EMBED,
    Component,
    embeddings,
)
from qkatlas.pipeline.passes.kinds import KINDS
from qkatlas.pipeline.passes.semantic import semantic_category_scores
from qkatlas.pipeline.text.passages import Passages

MEAN_KINDS = (EMBED, POS_EMBED, ATTN, MLP, HEAD)
"""Kinds of components whose outputs have a mean."""

STACK_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens that run together, at least one batch; fixed for a device, because the shape of a product may change its last
bit. Larger stacks are no faster there."""

LOGIT_ROWS = 256
"""Tokens whose logits are held at once."""

Outputs = Mapping[Component, torch.Tensor]
"""Outputs of components; those of a layer's heads come together, under `heads_of`."""


def heads_of(layer: int) -> Component:
    """Stands for all heads of a layer together, whose outputs in front of W_O are one tensor."""
    return Component(HEAD, layer)


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
    start_PTD = model.run(passages.tokens_PT, _embedding_hooks(model, outputs), stop_at_layer=0)
    read = measurement.layers()
    depth = None if measurement.loss else max([*layers, *read]) + 1
    hooks = {name: hook for layer in layers for name, hook in _hooks(model, layer, outputs).items()}
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
    clean = _outputs(model, passages.tokens_PT, components[0].layer)
    others: Outputs = {}
    if kind == "resample":
        assert passages.partners_PT is not None, "outputs are resampled from partners"
        others = _outputs(model, passages.partners_PT, components[0].layer)
    if kind == "mean":
        sources = [source for source in clean if source.kind in MEAN_KINDS]
        others = {source: torch.from_numpy(means[source]).to(model.device) for source in sources}

    count, length = passages.tokens_PT.shape
    step = max(1, STACK_TOKENS[model.device.type] // (count * length))
    done = [
        _measure_stack(model, passages, measurement, components[start : start + step], clean, others)
        for start in range(0, len(components), step)
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
    stream_STD = torch.cat(_streams(model, components, clean, others))
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


def _streams(model: Forward, components: Sequence[Component], clean: Outputs, others: Outputs) -> list[torch.Tensor]:
    """The residual stream in front of the first layer above each ablation, [P, T, D] each."""
    layer = components[0].layer
    if layer is None:
        # In the order of the model's own sum.
        tables = {component.kind: output for component, output in clean.items()}
        replaced = [{**tables, each.kind: _replacement(each, clean, others)} for each in components]
        return [
            parts[EMBED] + parts[POS_EMBED] if POS_EMBED in parts else parts[EMBED].contiguous() for parts in replaced
        ]
    parallel = model.architecture.parallel
    mlp_PTD = clean[Component(MLP, layer)]
    middle_PTD = (
        clean[_before(layer)] + clean[Component(ATTN, layer)] if parallel else clean[Component(MLP_RESIDUAL, layer)]
    )
    streams: dict[Component, torch.Tensor] = {}
    middles: dict[Component, torch.Tensor] = {}
    for component in components:
        other_PTD = _replacement(component, clean, others)
        if component.kind == MLP:
            streams[component] = middle_PTD + other_PTD
        elif component.kind == MLP_RESIDUAL:
            streams[component] = other_PTD + mlp_PTD
        elif component.kind == ATTN:
            middles[component] = other_PTD + clean[_before(layer)]
        elif model.architecture.after_norms:
            mixed_PTNH = clean[heads_of(layer)].clone()
            mixed_PTNH[:, :, component.head] = other_PTD
            middles[component] = clean[_before(layer)] + model.normalised_output(layer, mixed_PTNH)
        else:
            # Attention's output is linear in what its heads hand to W_O.
            change_PTH = other_PTD - clean[heads_of(layer)][:, :, component.head]
            middles[component] = middle_PTD + change_PTH @ model.output_weights(layer)[component.head]
    if parallel:  # the MLP reads what entered the layer, and adds what it added
        streams |= {component: middle_PTD + mlp_PTD for component, middle_PTD in middles.items()}
    elif middles:
        read_STD = torch.cat(list(middles.values()))
        passed = (read_STD + model.mlp(layer, read_STD)).chunk(len(middles))
        streams |= dict(zip(middles, passed, strict=True))
    return [streams[component] for component in components]


def _replacement(component: Component, clean: Outputs, others: Outputs) -> torch.Tensor:
    """What takes the place of a component's output, in the shape of the output.

    `others` holds means [D], outputs of other passages [P, T, ...], or nothing where nothing takes its place.
    """
    source = replace(component, head=None)  # for a single head `heads_of` its layer
    own = clean[source]
    other = others.get(source)
    if other is None:
        other = own.new_zeros(1)
    elif other.dim() == 1:
        other = other.reshape(own.shape[2:])
    other = other.expand_as(own)
    return other if component.head is None else other[:, :, component.head]


def _outputs(model: Forward, tokens_PT: np.ndarray, layer: int | None) -> Outputs:
    """The outputs of a layer's components, or of the embeddings, with the model as it is."""
    outputs: dict[Component, torch.Tensor] = {}
    start_PTD = model.run(tokens_PT, _embedding_hooks(model, outputs) if layer is None else {}, stop_at_layer=0)
    if layer is not None:
        model.go_on(start_PTD, 0, _hooks(model, layer, outputs), stop_at_layer=layer + 1)
    return outputs


def _hooks(model: Forward, layer: int, outputs: dict[Component, torch.Tensor]) -> dict[str, Hook]:
    a = model.architecture

    def keep_heads(mixed: torch.Tensor) -> None:
        outputs[heads_of(layer)] = mixed.reshape(*mixed.shape[:2], a.n_heads, a.d_head)

    hooks = {
        f"blocks.{layer}.hook_resid_pre": _keep(_before(layer), outputs),
        model.attention_hook(layer): _keep(Component(ATTN, layer), outputs),
        f"blocks.{layer}.attn.hook_z": keep_heads,
    }
    if not a.parallel:
        hooks[f"blocks.{layer}.hook_resid_mid"] = _keep(Component(MLP_RESIDUAL, layer), outputs)
    return {**hooks, model.mlp_hook(layer): _keep(Component(MLP, layer), outputs)}


def _before(layer: int) -> Component:
    """Stands for the residual stream in front of a layer, which is no component."""
    return Component("resid_pre", layer)


def _embedding_hooks(model: Forward, outputs: dict[Component, torch.Tensor]) -> dict[str, Hook]:
    return {f"hook_{each.kind}": _keep(each, outputs) for each in embeddings(model.architecture)}


def _keep(component: Component, outputs: dict[Component, torch.Tensor]) -> Hook:
    def keep(output: torch.Tensor) -> None:
        outputs[component] = output

    return keep


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
