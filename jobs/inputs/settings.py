"""What a request must be to fit a model."""

from __future__ import annotations

from typing import Any

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.rotary import Offsets


def require_top_k_fits(top_k: int, vocab_size: int) -> None:
    """Check that a vocabulary has as many keys as are to be kept.

    Raises:
        ValueError: if it has fewer.
    """
    if top_k > vocab_size:
        raise ValueError(f"--top-k {top_k} is more than the vocabulary holds; keep at most {vocab_size}")


def require_uncapped(architecture: Architecture, scores: str) -> None:
    """Check that scores are not capped, for statistics over a row are taken of products.

    Raises:
        ValueError: if they are.
    """
    if architecture.score_cap is not None and scores == "attention":
        raise ValueError(
            "the model caps its attention scores, whose means and deviations over a row are not computed; choose "
            "--scores bilinear, or another model"
        )


def with_offset(settings: dict[str, Any], offset: Offsets | None) -> dict[str, Any]:
    """Settings that name the offset where there is one: those of models without are what they have always been."""
    settings = {name: value for name, value in settings.items() if name != "offset"}
    return settings if offset is None else {**settings, "offset": str(offset)}
