"""Which heads an ablation measures, and which layers it ablates."""

from __future__ import annotations

import re

from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.head import Head


def choose_targets(targets: str | tuple[str, ...] | None, shape: Architecture) -> tuple[Head, ...]:
    """The heads that `--targets` means.

    Args:
        targets: heads and layers such as `L1H5,L4`, or one by one; None = every head.
        shape: the model.

    Returns:
        The heads, by layer and place, each once.

    Raises:
        ValueError: if the text is malformed, or names no head or what the model does not have.
    """
    if targets is None:
        targets = tuple(f"L{layer}" for layer in range(shape.n_layers))
    chosen: set[Head] = set()
    for name in map(str.strip, targets.split(",") if isinstance(targets, str) else targets):
        whole = re.fullmatch(r"L(\d{1,6})", name, re.ASCII)
        heads = [Head(int(whole[1]), head) for head in range(shape.n_heads)] if whole else [Head.parse(name)]
        for head in heads:
            head.require_inside(shape.n_layers, shape.n_heads)
        chosen.update(heads)
    if not chosen:
        raise ValueError("--targets names no head; name at least one, for example L1H5")
    return tuple(sorted(chosen))


def choose_layers(layers: str | tuple[int, ...] | None, last: int, shape: Architecture) -> tuple[int, ...]:
    """The layers that `--layers` means.

    Args:
        layers: numbers and ranges such as `0-3,7`, or numbers; None = all that matter.
        last: the first layer that does not matter.
        shape: the model.

    Returns:
        The layers, ascending, each once.

    Raises:
        ValueError: if the text is malformed, or names a layer the model does not have.
    """
    if layers is None:
        return tuple(range(last))
    if isinstance(layers, str):
        heads = heads_within(layers, "0", n_layers=shape.n_layers, n_heads=shape.n_heads)
        return tuple(head.layer for head in heads)
    for layer in layers:
        if not 0 <= layer < shape.n_layers:
            raise ValueError(f"--layers {layer} is outside the model; choose from 0 to {shape.n_layers - 1}")
    return tuple(sorted(set(layers)))
