"""What a head does by position, in a word, by stated thresholds on the columns of its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qkatlas.pipeline.positions.kinds import CONTEXTUAL

NONE = "none"

POSITION_LEFT, FIXED_LEFT = "position_left", "fixed_left"
"""What the kernel alone, and kernel and content of one query for all, leave of the error that uniform attention has."""


@dataclass(frozen=True)
class Condition:
    """A bound on a column.

    Attributes:
        column: of a head's row.
        bound: the least value that holds, or the greatest.
        at_least: which of both it is.
    """

    column: str
    bound: float
    at_least: bool = True

    def margin(self, row: Mapping[str, Any]) -> float | None:
        """How far a row is on the right side of the bound, as a share of the bound; None where it has no value."""
        value: float | None = row.get(self.column)
        if value is None:
            return None
        return (value - self.bound if self.at_least else self.bound - value) / self.bound


_NO_SINK = Condition("bos_share", 0.8, at_least=False)
"""What is left beside BOS is too little to name a head after."""

CLASSES: Mapping[str, tuple[Condition, ...]] = {
    "previous": (Condition("previous_share", 0.5), Condition("tv_position", 0.35, at_least=False)),
    "detokenisation": (
        Condition("local_share", 0.5),
        Condition("translation_invariance", 0.8),
        Condition(POSITION_LEFT, 0.8, at_least=False),
    ),
    "duplicate": (Condition("equal_share", 0.3),),
    "positional": (
        Condition("tv_position", 0.2, at_least=False),
        Condition("width", 8.0),
        Condition(POSITION_LEFT, 0.6, at_least=False),
        Condition("translation_invariance", 0.8),
        _NO_SINK,
    ),
    CONTEXTUAL: (
        Condition("width", 16.0),
        Condition("denominator_cv_between", 0.25, at_least=False),
        Condition("tv_fixed", 0.35, at_least=False),
        Condition(FIXED_LEFT, 0.6, at_least=False),
        Condition(POSITION_LEFT, 0.7, at_least=False),
        Condition("translation_invariance", 0.8),
        _NO_SINK,
    ),
    "sink": (Condition("bos_share", 0.8),),
}
"""Classes by name, the first that holds first. A condition on a column without a value is passed over, as on
translation invariance under rotary positions, where it holds by construction; a class of no other condition does not
hold then."""


def class_margin(name: str, row: Mapping[str, Any]) -> float | None:
    """The least of the margins of a class's conditions; None where one that decides has no value.

    Args:
        name: of the class.
        row: columns of `positions`.
    """
    margins = [condition.margin(row) for condition in CLASSES[name]]
    known = [margin for margin in margins if margin is not None]
    return min(known) if known else None


def classify(row: Mapping[str, Any]) -> tuple[str, float]:
    """Name a head by where it looks.

    Args:
        row: columns of `positions`.

    Returns:
        The first class that holds, and by how much: the least margin of its conditions, as a share of their bounds. For
        `none` the margin is that of the class that is nearest to holding, below 0.
    """
    row = {**row, **{left: _left(row, name) for left, name in ((POSITION_LEFT, "position"), (FIXED_LEFT, "fixed"))}}
    margins = {name: margin for name in CLASSES if (margin := class_margin(name, row)) is not None}
    for name, margin in margins.items():
        if margin >= 0:
            return name, margin
    return NONE, max(margins.values())


def _left(row: Mapping[str, Any], name: str) -> float | None:
    error, uniform = row.get(f"tv_{name}"), row.get("tv_uniform")
    if error is None or uniform is None:
        return None
    return float(error / uniform) if uniform > 0 else 1.0
