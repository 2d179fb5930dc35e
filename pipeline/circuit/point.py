"""Points of a steering grid: names and numbers, without the code that steers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a grid; what its method does not use is None.

    Attributes:
        method: `unsteered`, `eigen`, `control`, `singular` or `gradient`.
        alpha: factor on the negative eigenvalues; a control has the dose of this alpha.
        draw: which random choice of eigenvalues a control has, from 0.
        rank: how many of the largest singular values are scaled.
        scale: factor on them.
        step: length of the step along the gradient, relative to the norm of the weights that are moved.
    """

    method: Literal["unsteered", "eigen", "control", "singular", "gradient"]
    alpha: float | None = None
    draw: int | None = None
    rank: int | None = None
    scale: float | None = None
    step: float | None = None
