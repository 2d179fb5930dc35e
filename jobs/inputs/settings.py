"""Settings that scoring jobs share, checked before any model is opened."""

from __future__ import annotations

from qkatlas.pipeline.circuit.projection import SCORES
from qkatlas.pipeline.circuit.states import STATES

MOST_PROMPTS = 100_000
"""Prompts, or words in one, that a job takes; more would not fit the memory of a driver."""


def require_scoring(states: str, scores: str, top_k: int) -> None:
    """Check how a job is to score.

    Args:
        states: `--states`.
        scores: `--scores`.
        top_k: `--top-k`.

    Raises:
        ValueError: if a name is unknown or no key would be kept.
    """
    for name, value, known in (("--states", states, STATES), ("--scores", scores, SCORES)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}")
    if top_k < 1:
        raise ValueError(f"--top-k {top_k} is below 1; keep at least one key a token")


def require_top_k_fits(top_k: int, vocab_size: int) -> None:
    """Check that a vocabulary has as many keys as are to be kept.

    Raises:
        ValueError: if it has fewer.
    """
    if top_k > vocab_size:
        raise ValueError(f"--top-k {top_k} is more than the vocabulary holds; keep at most {vocab_size}")


def require_prompts(prompts: int, length: int | None, seed: int) -> None:
    """Check which prompts a job is to run.

    Args:
        prompts: `--prompts`.
        length: `--length`, if given.
        seed: `--seed`.

    Raises:
        ValueError: if there would be no prompt or no word, or the seed is negative.
    """
    for name, value in (("--prompts", prompts), ("--length", length)):
        if value is not None and not 1 <= value <= MOST_PROMPTS:
            raise ValueError(f"{name} {value} is impossible; choose from 1 to {MOST_PROMPTS}")
    if seed < 0:
        raise ValueError(f"--seed {seed} is negative; choose 0 or more")
