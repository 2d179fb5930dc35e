"""Which heads `--layers` and `--heads` mean in a model of a given size."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qkatlas.pipeline.models.head import Head


def heads_within(
    layers: str | None, heads: str | Sequence[str] | None, *, n_layers: int, n_heads: int
) -> tuple[Head, ...]:
    """The heads that `--layers` and `--heads` mean.

    Args:
        layers: numbers and ranges such as `0-3,7`; None = every layer.
        heads: numbers and ranges for each of these layers, or names such as `L1H5,L4H11`; None = every head. Names may
            be a sequence too.
        n_layers: layers of the model.
        n_heads: heads in each layer.

    Returns:
        The heads, by layer and place, each once.

    Raises:
        ValueError: if the text is malformed, or names what the model does not have.
    """
    if heads is not None and not (isinstance(heads, str) and "L" not in heads):
        names = heads.split(",") if isinstance(heads, str) else heads
        if layers is not None:
            raise ValueError(
                f"--layers {layers} and the names in --heads {','.join(names)} exclude each other; leave one out"
            )
        named = [Head.parse(name.strip()) for name in names]
        for head in named:
            head.require_inside(n_layers, n_heads)
        return tuple(sorted(set(named)))
    chosen_layers = _numbers("--layers", layers, n_layers)
    chosen_heads = _numbers("--heads", heads, n_heads)
    return tuple(Head(layer, head) for layer in chosen_layers for head in chosen_heads)


def _numbers(option: str, text: str | None, count: int) -> list[int]:
    if text is None:
        return list(range(count))
    numbers: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", piece, re.ASCII)
        if match is None:
            raise ValueError(f"{option} {text!r} is malformed; write numbers and ranges such as 0-3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= count:
            raise ValueError(f"{option} {text!r} is outside the model; choose from 0 to {count - 1}")
        numbers.update(range(first, last + 1))
    return sorted(numbers)
