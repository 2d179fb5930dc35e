"""The answer of a tasks run: the tasks, solved ones first, each with the heads that serve it."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.head import Head

_EACH = 3


def heads_of_tasks(run: Run) -> Group:
    """Every task with its losses and its first heads, and the heads that serve tasks of several families.

    Args:
        run: a finished tasks run.
    """
    tasks = read_whole(run, "tasks").to_pylist()
    heads = read_whole(run, "task_heads").to_pylist()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("task", "loss", "control", "gain, 95%", "heads", "the first of them, effect (control)"):
        table.add_column(name, justify="left" if name in ("task", "the first of them, effect (control)") else "right",
                         no_wrap=True)  # fmt: skip
    for row in sorted(tasks, key=lambda row: (not row["solved"], -row["gain"])):
        table.add_row(
            row["task"], f"{row['loss']:.2f}", f"{row['control_loss']:.2f}", _gain(row), str(row["n_heads"]),
            _first(row, heads),
        )  # fmt: skip
    several = [row for row in read_whole(run, "task_counts").to_pylist() if row["polysemantic"]]
    listed = ", ".join(f"{Head(row['layer'], row['head'])} ({', '.join(row['tasks'])})" for row in several)
    return Group(table, f"heads that serve tasks of several families: {listed or 'none'}")


def _gain(row: dict[str, Any]) -> str:
    if row["gain_low"] is None:
        return f"{row['gain']:+.2f}"
    return f"{row['gain']:+.2f} ({row['gain_low']:+.2f} to {row['gain_high']:+.2f})"


def _first(task: dict[str, Any], heads: list[dict[str, Any]]) -> str:
    if not task["solved"]:
        return "not solved: labels no head"
    served = [row for row in heads if row["task"] == task["task"] and row["serves"]]
    served.sort(key=lambda row: -row["specific"])
    return ", ".join(
        f"{Head(row['layer'], row['head'])} {row['effect']:+.2f} ({row['control_effect']:+.2f})"
        for row in served[:_EACH]
    )
