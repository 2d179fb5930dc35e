"""A component's output replaced: what it was, and the residual stream in front of the next layer without it.

What a layer's ablations all begin at is what the model as it is computed there: the residual stream, and each
component's output, are taken once by TransformerBridge's hooks. The stream differs from then on by the replaced output
alone, and what reads it is run: the layer's MLP, where attention was replaced, and the layers above.

Shapes: P passages of a batch, T positions, N heads of a layer, H head dimension, D model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from qkatlas.pipeline.models.forward import Forward, Hook
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

MEAN_KINDS = (EMBED, POS_EMBED, ATTN, MLP, HEAD)
"""Kinds of components whose outputs have a mean."""

STACK_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens that run together, at least one batch; fixed for a device, because the shape of a product may change its last
bit. Larger stacks are no faster there."""

Outputs = Mapping[Component, torch.Tensor]
"""Outputs of components; those of a layer's heads come together, under `heads_of`."""


def heads_of(layer: int) -> Component:
    """Stands for all heads of a layer together, whose outputs in front of W_O are one tensor."""
    return Component(HEAD, layer)


def stacks(components: Sequence[Component], tokens: int, device: torch.device) -> list[Sequence[Component]]:
    """Components whose ablations run in one pass together, in order.

    Args:
        components: the components.
        tokens: that each of them is run on.
        device: where they run.
    """
    step = max(1, STACK_TOKENS[device.type] // tokens)
    return [components[start : start + step] for start in range(0, len(components), step)]


def outputs_of(model: Forward, tokens_PT: np.ndarray, layer: int | None) -> Outputs:
    """The outputs of a layer's components, or of the embeddings, with the model as it is."""
    outputs: dict[Component, torch.Tensor] = {}
    start_PTD = model.run(tokens_PT, embedding_hooks(model, outputs) if layer is None else {}, stop_at_layer=0)
    if layer is not None:
        model.go_on(start_PTD, 0, layer_hooks(model, layer, outputs), stop_at_layer=layer + 1)
    return outputs


def walk(model: Forward, tokens_PT: np.ndarray, layers: Sequence[int]) -> Iterator[tuple[int, Outputs]]:
    """Pass some layers with the model as it is, and hand out the outputs of each layer's components.

    Args:
        model: the model.
        tokens_PT: int64 [P, T].
        layers: the layers, ascending and next to each other.
    """
    stream_PTD = model.go_on(model.run(tokens_PT, {}, stop_at_layer=0), 0, {}, stop_at_layer=layers[0])
    for layer in layers:
        outputs: dict[Component, torch.Tensor] = {}
        stream_PTD = model.go_on(stream_PTD, layer, layer_hooks(model, layer, outputs), stop_at_layer=layer + 1)
        yield layer, outputs


def streams_without(
    model: Forward, components: Sequence[Component], clean: Outputs, others: Outputs
) -> list[torch.Tensor]:
    """The residual stream in front of the first layer above each ablation, [P, T, D] each.

    Args:
        model: the model.
        components: components of one layer, or embeddings.
        clean: outputs with the model as it is.
        others: what takes their place: means [D], outputs of other passages, or nothing.
    """
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


def layer_hooks(model: Forward, layer: int, outputs: dict[Component, torch.Tensor]) -> dict[str, Hook]:
    """Hooks that keep the outputs of a layer's components, and what entered the layer."""
    a = model.architecture

    def keep_heads(mixed: torch.Tensor) -> None:
        outputs[heads_of(layer)] = mixed.reshape(*mixed.shape[:2], a.n_heads, a.d_head)

    hooks = {
        f"blocks.{layer}.hook_resid_pre": keep_output(_before(layer), outputs),
        model.attention_hook(layer): keep_output(Component(ATTN, layer), outputs),
        f"blocks.{layer}.attn.hook_z": keep_heads,
    }
    if not a.parallel:
        hooks[f"blocks.{layer}.hook_resid_mid"] = keep_output(Component(MLP_RESIDUAL, layer), outputs)
    return {**hooks, model.mlp_hook(layer): keep_output(Component(MLP, layer), outputs)}


def _before(layer: int) -> Component:
    """Stands for the residual stream in front of a layer, which is no component."""
    return Component("resid_pre", layer)


def embedding_hooks(model: Forward, outputs: dict[Component, torch.Tensor]) -> dict[str, Hook]:
    """Hooks that keep the embeddings."""
    return {f"hook_{each.kind}": keep_output(each, outputs) for each in embeddings(model.architecture)}


def keep_output(component: Component, outputs: dict[Component, torch.Tensor]) -> Hook:
    """A hook that keeps a component's output."""

    def keep(output: torch.Tensor) -> None:
        outputs[component] = output

    return keep


def changes(model: Forward, component: Component, clean: Outputs, others: Outputs) -> bool:
    """Whether anything else is written where a head's output is replaced; what changes nothing has no effect at all.

    Args:
        model: the model.
        component: a head.
        clean: outputs of its layer.
        others: what takes their place, as in `streams_without`.
    """
    assert component.layer is not None
    assert component.head is not None
    change_PTH = _replacement(component, clean, others) - clean[heads_of(component.layer)][:, :, component.head]
    return bool((change_PTH @ model.output_weights(component.layer)[component.head]).any())
