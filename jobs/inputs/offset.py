"""How far apart query and key stand, in models that turn both by their positions."""

from __future__ import annotations

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.rotary import Offsets

_NEAREST = "1"
"""A query sees the token before it at 1; at 0 it only ever sees itself."""


def fitted_offset(text: str | None, architecture: Architecture) -> Offsets | None:
    """The offset that a request means.

    Args:
        text: `--offset`; None = 1 where the model turns queries and keys.
        architecture: of the model.

    Returns:
        The offset; None in models whose positions are learned, where there is none.

    Raises:
        ValueError: if the text is malformed, or the model has no offsets.
    """
    if architecture.rotary is not None:
        return Offsets.parse(text or _NEAREST)
    if text is not None:
        raise ValueError(
            f"--offset {text} has no meaning in a {architecture.family} model, whose positions are learned and added "
            "to the embedding; leave it out"
        )
    return None
