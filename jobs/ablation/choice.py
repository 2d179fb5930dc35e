"""Which heads an ablation measures, and which layers it ablates, as the command line names them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qkatlas.jobs.head_scan.job import choose_heads
from qkatlas.jobs.inputs.model import Model
from qkatlas.pipeline.models.head import Head


def choose_targets(targets: str | None, model: Model) -> tuple[str, ...]:
    """The heads that `--targets` means.

    Args:
        targets: heads and layers such as `L1H5,L4`; None = every head.
        model: the model.

    Returns:
        The heads' names, by layer and place, each once.

    Raises:
        ValueError: if the text is malformed, or names what the model does not have.
    """
    shape = model.checkpoint.architecture
    if targets is None:
        targets = ",".join(f"L{layer}" for layer in range(shape.n_layers))
    chosen: set[Head] = set()
    for name in map(str.strip, targets.split(",")):
        whole = re.fullmatch(r"L(\d{1,6})", name, re.ASCII)
        heads = [Head(int(whole[1]), head) for head in range(shape.n_heads)] if whole else [Head.parse(name)]
        for head in heads:
            head.require_inside(shape.n_layers, shape.n_heads)
        chosen.update(heads)
    return tuple(map(str, sorted(chosen)))


def choose_layers(layers: str | None, targets: Sequence[str] | None, model: Model) -> tuple[int, ...]:
    """The layers that `--layers` means.

    Args:
        layers: numbers and ranges such as `0-3,7`; None = all that matter.
        targets: heads that `--targets` named; None = every head.
        model: the model.

    Returns:
        The layers, ascending: with named targets and none given those below the last target.

    Raises:
        ValueError: if the text is malformed, or names a layer the model does not have.
    """
    if layers is None:
        last = max(Head.parse(name).layer for name in targets) if targets else model.checkpoint.architecture.n_layers
        return tuple(range(last))
    return tuple(Head.parse(name).layer for name in choose_heads(layers, "0", model))
