"""The answer of a reproduction: one row for each published figure, and what each figure and its tolerance mean."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.reproduce.verdicts import DIFFERS, NOT_COMPARABLE, REPRODUCED
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run

_STYLES = {REPRODUCED: "green", DIFFERS: "bold red", NOT_COMPARABLE: "dim"}


def verdicts(run: Run) -> RenderableType:
    """Published and measured number, tolerance and verdict, one row each; above, what and why of every figure.

    Args:
        run: a finished reproduce run.

    Returns:
        Tables to print, the verdicts last, where a terminal shows them.
    """
    rows = read_whole(run, "reproduction").to_pylist()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")  # 80 columns wide
    table.add_column("figure", no_wrap=True)
    table.add_column("as", no_wrap=True)
    for name in ("published", "measured"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("tolerance", "verdict"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        cells = [
            row["figure"],
            row["variant"].removeprefix("as "),
            f"{row['published']:g}" if row["published"] is not None else "",
        ]
        short = row["tolerance"].removeprefix("within a ").replace("at least", ">=")
        cells += [_short(row), short]
        table.add_row(*map(Text, cells), Text(row["verdict"], style=_STYLES[row["verdict"]]))
    counts = Counter(row["verdict"] for row in rows)
    listed = ", ".join(f"{counts[name]} {name}" for name in (REPRODUCED, DIFFERS, NOT_COMPARABLE))
    return Group(_meanings(rows), Text(), table, Text(f"{len(rows)} rows: {listed}"))


def _meanings(rows: list[dict[str, Any]]) -> Table:
    """What each figure is, why its tolerance, and what was found, for each figure once."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure", no_wrap=True)
    table.add_column("what; tolerance and why; what was found")
    for name in dict.fromkeys(row["figure"] for row in rows):
        mine = [row for row in rows if row["figure"] == name]
        first = mine[0]
        lines = [f"{first['what']}; {first['tolerance']}: {first['why']}"]
        found = {row["variant"]: "; ".join(filter(None, (row["measured_text"], row["note"]))) for row in mine}
        if len(set(found.values())) == 1:
            found = {"found": found[first["variant"]]}
        lines += [f"{variant}: {text}" for variant, text in found.items() if text != first["why"]]
        # The texts hold tokens: Text, not str, keeps them from being read as markup.
        table.add_row(Text(name), Text("\n".join(lines)))
    return table


def _short(row: dict[str, Any]) -> str:
    """The measured number in nine characters, which 80 columns have room for."""
    value = row["measured"]
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(row["measured_text"])
    if abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
