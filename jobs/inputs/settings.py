"""What a request must be to fit a model."""

from __future__ import annotations


def require_top_k_fits(top_k: int, vocab_size: int) -> None:
    """Check that a vocabulary has as many keys as are to be kept.

    Raises:
        ValueError: if it has fewer.
    """
    if top_k > vocab_size:
        raise ValueError(f"--top-k {top_k} is more than the vocabulary holds; keep at most {vocab_size}")
