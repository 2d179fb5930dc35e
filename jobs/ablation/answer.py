"""The answer a person wants at the end of an ablation: what a head rests on, and which heads act on which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.components import HEAD, NONE

_COMPONENTS, _PAIRS = 16, 10


def causes(run: Run, target: Head | None) -> Group:
    """What one head rests on, and the strongest effects of heads on heads.

    Args:
        run: a finished ablation run.
        target: the head; None = the one with the lowest Semantic Category Score.

    Returns:
        Two tables to print.
    """
    rows = read_whole(run, "ablation").to_pylist()
    if target is None:
        best = min((row for row in rows if row["kind"] == NONE), key=lambda row: row["score_mean"])
        target = _target(best)
    # Among equals the tables' own order holds.
    rows.sort(key=lambda row: (row["kind"] != NONE, -abs(row["delta"])))
    own = [row for row in rows if _target(row) == target]
    pairs = [row for row in rows if row["kind"] == HEAD]
    about = _table("component", f"score of {target}", own[: 1 + _COMPONENTS], lambda row: str(row["component"]))
    if not pairs:
        return Group(about)
    acting = _table(
        "strongest head -> head", "score", pairs[:_PAIRS], lambda row: f"{row['component']} -> {_target(row)}"
    )
    return Group(about, "", acting)


def _table(first: str, score: str, rows: Sequence[dict[str, Any]], name: Callable[[dict[str, Any]], str]) -> Table:
    with_loss = any(row["loss_delta"] is not None for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for column in (score, "delta", "95% interval", *(["loss delta"] if with_loss else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        low, high = row["delta_low"], row["delta_high"]
        cells = [f"{row['delta']:+.3f}", "" if low is None else f"{low:+.3f} to {high:+.3f}"]
        cells += [f"{row['loss_delta']:+.4f}"] if with_loss else []
        table.add_row(name(row), f"{row['score_mean']:.3f}", *(cells if row["kind"] != NONE else []))
    return table


def _target(row: dict[str, Any]) -> Head:
    return Head(row["target_layer"], row["target_head"])
