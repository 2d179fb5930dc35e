"""The answer of a steering run: how tokens stand to themselves at every dose."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from qkatlas.outputs.runs.reader import read_whole, table_names
from qkatlas.outputs.runs.run import Run

_FIGURES = (
    ("own rank", "self_rank_mean", ".0f"),
    ("top 10", "self_top10_share", ".3f"),
    ("kin z", "kin_z_mean", ".2f"),
    ("overlap", "overlap_at_k", ".3f"),
    ("corr.", "spearman", ".3f"),
    ("precision", "category_precision_at_k", ".3f"),
)


_IN_MODEL = (
    ("on itself", "identical_mass", ".4f"),
    ("category", "category_mass", ".4f"),
    ("BOS", "bos_mass", ".4f"),
    ("loss change", "loss_delta", "+.5f"),
)


def dose_response(run: Run) -> RenderableType:
    """One row a point of the grid; the draws of a control are averaged (x2: two draws).

    Args:
        run: a finished steering run.

    Returns:
        A table to print, and a second one of attention masses and loss where the model was run.
    """
    tables = [_table(run, "steering", _FIGURES)]
    if "in_model" in table_names(run):
        tables.append(_table(run, "in_model", _IN_MODEL))
    return Group(*tables)


def _table(run: Run, table_name: str, figures: Sequence[tuple[str, str, str]]) -> Table:
    rows = read_whole(run, table_name).to_pylist()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("point", no_wrap=True)
    for title, _, _ in figures:
        table.add_column(title, justify="right", no_wrap=True)
    for label, points in groupby(rows, key=_label):
        drawn = list(points)
        suffix = f" x{len(drawn)}" if len(drawn) > 1 else ""
        table.add_row(
            label + suffix,
            *(_mean(drawn, column, form) for _, column, form in figures),
        )
    return table


def _label(row: dict[str, Any]) -> str:
    names = {"alpha": "alpha", "rank": "r", "scale": "s", "step": "step"}
    settings = [f"{short} {row[name]:g}" for name, short in names.items() if row[name] is not None]
    return " ".join([row["method"], *settings])


def _mean(rows: list[dict[str, Any]], column: str, form: str) -> str:
    values = [row[column] for row in rows if row[column] is not None]
    return format(sum(values) / len(values), form) if values else ""
