"""How far apart query and key stand, in models that turn both by their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.rotary import Offsets

_NEAREST = "1"
"""A query sees the token before it at 1; at 0 it only ever sees itself."""


def fitted_offset(text: str | None, architecture: Architecture, layers: Sequence[int]) -> Offsets | None:
    """The offset that a request means.

    Args:
        text: `--offset`; None = 1 where the model turns queries and keys.
        architecture: of the model.
        layers: those whose heads are scored.

    Returns:
        The offset; None in models whose positions are learned, where there is none.

    Raises:
        ValueError: if the text is malformed, the model has no offsets, or one of the layers does not read so far back.
    """
    if architecture.rotary is not None:
        offset = Offsets.parse(text or _NEAREST)
        for layer in layers:
            reads = architecture.window_of(layer) or architecture.n_ctx
            if offset.last >= reads:
                raise ValueError(
                    f"--offset {offset} is further back than layer {layer} reads; choose from 0 to {reads - 1}"
                )
        return offset
    if text is not None:
        raise ValueError(
            f"--offset {text} has no meaning in a {architecture.family} model, whose positions are learned and added "
            "to the embedding; leave it out"
        )
    return None


def with_offset(settings: dict[str, Any], offset: Offsets | None) -> dict[str, Any]:
    """Settings that name the offset where there is one: those of models without are what they have always been."""
    settings = {name: value for name, value in settings.items() if name != "offset"}
    return settings if offset is None else {**settings, "offset": str(offset)}
