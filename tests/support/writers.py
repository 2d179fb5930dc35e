"""A planted checkpoint with two more heads, in its last layer, whose writing no other head reads."""

from __future__ import annotations

from pathlib import Path

from qkatlas.jobs.inputs.resolve import write_checkpoint
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.writers import with_writers

COPYING, SUPPRESSING = Head(2, 3), Head(2, 5)
"""Both are random heads of the planted designs of three layers."""


def write_planted_writers(folder: Path) -> Path:
    """Write it; returns its folder."""
    planted = plant(PlantedDesign(size="tiny"))
    write_checkpoint(with_writers(planted, copying=COPYING, suppressing=SUPPRESSING), folder)
    return folder
