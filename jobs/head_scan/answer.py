"""The closing table of a head scan: the heads that suppress themselves most."""

from __future__ import annotations

from rich.table import Table

from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run

_HEADS = 10


def most_suppressing(run: Run) -> Table:
    """The ten heads with the highest suppression index among those that prefer kin to other tokens.

    Args:
        run: a finished head-scan run.

    Returns:
        A table to print, with the index's 95% interval.
    """
    rows = read_whole(run, "heads").to_pylist()
    rows = [row for row in rows if row["suppression_index_mean"] is not None and row["kin_z_mean"] > 0]
    rows.sort(key=lambda row: -row["suppression_index_mean"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("head", no_wrap=True)
    for name in ("suppression (95%)", "kin z", "self z", "semantic"):
        table.add_column(name, justify="right")
    table.add_column("label", no_wrap=True)
    for row in rows[:_HEADS]:
        low, high = row["suppression_index_low"], row["suppression_index_high"]
        score = row["semantic_category_score_mean"]
        table.add_row(
            f"L{row['layer']}H{row['head']}",
            f"{row['suppression_index_mean']:.2f} ({low:.2f} to {high:.2f})",
            f"{row['kin_z_mean']:.2f}",
            f"{row['self_z_mean']:.2f}",
            "" if score is None else f"{score:.2f}",
            row["label"],
        )
    return table
