"""The answer of a steering run: how tokens stand to themselves at every dose."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pyarrow.parquet as pq
from rich.table import Table

from outputs.run import Run

_FIGURES = (
    ("own rank", "self_rank_mean", ".0f"),
    ("top 10", "self_top10_share", ".3f"),
    ("kin z", "kin_z_mean", ".2f"),
    ("overlap", "overlap_at_k", ".3f"),
    ("corr.", "spearman", ".3f"),
    ("precision", "category_precision_at_k", ".3f"),
)


def dose_response(run: Run) -> Table:
    """One row a point of the grid; the draws of a control are averaged (x2: two draws).

    Args:
        run: a finished steering run.

    Returns:
        A table to print.
    """
    rows = pq.read_table(run.folder / "steering.parquet").to_pylist()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("point", no_wrap=True)
    for title, _, _ in _FIGURES:
        table.add_column(title, justify="right", no_wrap=True)
    for label, points in groupby(rows, key=_label):
        drawn = list(points)
        suffix = f" x{len(drawn)}" if len(drawn) > 1 else ""
        table.add_row(
            label + suffix,
            *(_mean(drawn, column, form) for _, column, form in _FIGURES),
        )
    return table


def _label(row: dict[str, Any]) -> str:
    names = {"alpha": "alpha", "rank": "r", "scale": "s", "step": "step"}
    settings = [f"{short} {row[name]:g}" for name, short in names.items() if row[name] is not None]
    return " ".join([row["method"], *settings])


def _mean(rows: list[dict[str, Any]], column: str, form: str) -> str:
    values = [row[column] for row in rows if row[column] is not None]
    return format(sum(values) / len(values), form) if values else ""
