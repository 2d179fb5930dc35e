"""Verdicts: a measured value beside the published one, one row for each figure and variant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from qkatlas.jobs.reproduce.published import Facts, Figure
from qkatlas.outputs.schemas import reproduce as schemas_reproduction

REPRODUCED, DIFFERS, NOT_COMPARABLE = "reproduced", "differs", "not comparable"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of a figure.

    Attributes:
        value: the number; None or NaN where nothing comparable could be measured.
        text: it for a reader; empty = the number itself.
        note: why there is none, or what else a reader should know.
    """

    value: float | None
    text: str = ""
    note: str = ""


Found = Mapping[tuple[str, str], Measured]
"""Measurements by figure and variant."""


def absent(reason: str) -> Measured:
    """No measurement, and why."""
    return Measured(value=None, note=reason)


def verdict(figure: Figure, measured: Measured) -> str:
    """Judge a measurement by its figure's rule."""
    value = _number(measured)
    if value is None or figure.rule == "unmeasured":
        return NOT_COMPARABLE
    return REPRODUCED if figure.holds(value) else DIFFERS


def _number(measured: Measured) -> float | None:
    return None if measured.value is None or math.isnan(measured.value) else measured.value


def table(facts: Facts, found: Found) -> pa.Table:
    """One row for each figure and variant, in the order of the facts.

    Args:
        facts: the figures.
        found: what was measured; a figure that is never measured may be missing.

    Returns:
        A table of schema `schemas_reproduction.REPRODUCTION`.
    """
    rows = [
        _row(facts, figure, variant, _measured(figure, variant, found))
        for figure in facts.figures
        for variant in figure.variants
    ]
    return pa.Table.from_pylist(rows, schema=schemas_reproduction.REPRODUCTION)


def _measured(figure: Figure, variant: str, found: Found) -> Measured:
    return absent(figure.why) if figure.rule == "unmeasured" else found[figure.figure, variant]


def _row(facts: Facts, figure: Figure, variant: str, measured: Measured) -> dict[str, Any]:
    value = _number(measured)
    return {
        "figure": figure.figure,
        "what": figure.what,
        "source": "; ".join(facts.sources[source] for source in figure.sources),
        "variant": variant,
        "published": figure.published,
        "published_text": figure.published_text,
        "measured": value,
        "measured_text": measured.text or ("" if value is None else f"{value:.5g}"),
        "unit": figure.unit,
        "tolerance": figure.tolerance,
        "why": figure.why,
        "verdict": verdict(figure, measured),
        "note": measured.note or ("the measured value is not a number" if value is None else ""),
    }
