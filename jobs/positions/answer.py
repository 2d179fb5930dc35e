"""The answer of a positions run: how many heads are of each class, and those that hold most clearly."""

from __future__ import annotations

from collections import Counter

from rich.console import Group
from rich.table import Table

from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.positions.classes import CLASSES, NONE

_EACH = 3
_COLUMNS = ("width", "tv_position", "tv_fixed", "tv_uniform", "bos_share")


def classes_of_heads(run: Run) -> Group:
    """Counts of classes, and the heads of each with the largest margins.

    Args:
        run: a finished positions run.
    """
    rows = read_whole(run, "positions").to_pylist()
    counts = Counter(row["class"] for row in rows)
    listed = ", ".join(f"{name} {counts[name]}" for name in (*CLASSES, NONE) if counts[name])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("head", "class"):
        table.add_column(name, no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name in CLASSES:
        of_class = sorted((row for row in rows if row["class"] == name), key=lambda row: -row["class_margin"])
        for row in of_class[:_EACH]:
            cells = ("" if row[column] is None else f"{row[column]:.3g}" for column in _COLUMNS)
            table.add_row(str(Head(row["layer"], row["head"])), name, *cells)
    counted = f"{len(rows)} heads: {listed}"
    return Group(counted, "", table) if table.row_count else Group(counted)
