"""Which forms of a score a model's heads have."""

from __future__ import annotations

from qkatlas.pipeline.models.architecture import Architecture

NO_FORM = (
    "the model normalises each head's queries and keys (q_norm, k_norm), so that its scores have no bilinear form; use "
    "--scores attention, and jobs that need no form"
)


def require_bilinear(architecture: Architecture) -> None:
    """Check that a model's heads have a bilinear form.

    Raises:
        ValueError: if it normalises each head's queries and keys.
    """
    if architecture.head_norms:
        raise ValueError(NO_FORM)
