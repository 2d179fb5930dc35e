"""Which form of a score a model allows."""

from __future__ import annotations

from qkatlas.pipeline.circuit.forms import require_bilinear
from qkatlas.pipeline.models.architecture import Architecture


def require_scores(architecture: Architecture, scores: str) -> None:
    """Check that a model's heads have a form of the score, and that statistics over a row can be taken of products.

    Raises:
        ValueError: if they have not, or its scores are capped.
    """
    if scores == "bilinear":
        require_bilinear(architecture)
    if architecture.score_cap is not None and scores == "attention":
        raise ValueError(
            "the model caps its attention scores, whose means and deviations over a row are not computed; choose "
            "--scores bilinear, or another model"
        )
