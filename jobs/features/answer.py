"""The answer of a features run: what each dictionary is, and the heads whose features are of one kind."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from qkatlas.outputs.runs.reader import read_whole, table_names
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.head import Head

_SHOWN = 10
"""Heads that are listed."""


def described(run: Run) -> Group:
    """A line for each dictionary with both conventions' errors, and the heads that stand out.

    Args:
        run: a finished features run.
    """
    dictionaries = _table("layer", "reads", "kind", "size", "taken as", "FVU folded", "FVU raw", "fire", "silent")
    for row in read_whole(run, "dictionaries").to_pylist():
        both = row["convention"] if row["conventions_differ"] else "either"
        dictionaries.add_row(
            str(row["layer"]), row["reads"], row["architecture"], str(row["d_sae"]), both, f"{row['fvu_folded']:.3f}",
            f"{row['fvu_raw']:.3f}", f"{row['l0']:.1f}", f"{row['silent_share']:.0%}",
        )  # fmt: skip
    shown: list[RenderableType] = [dictionaries]
    names = table_names(run)
    if "heads" in names:
        shown += ["", *_of_one_kind(run)]
    if "qk_heads" in names:
        shown += ["", *_made_of(run)]
    return Group(*shown)


def _of_one_kind(run: Run) -> list[RenderableType]:
    rows = read_whole(run, "heads").to_pylist()
    candidates = [row for row in rows if row["monosemantic_candidate"]]
    views = ("logit", "source", "encoder")
    table = _table("head", "views", *(f"{view} z" for view in views), "share", "features")
    for row in sorted(candidates, key=lambda row: -sum(row[f"{view}_z"] or 0 for view in views))[:_SHOWN]:
        cells = ("" if row[f"{view}_z"] is None else f"{row[f'{view}_z']:.1f}" for view in views)
        named = ", ".join(map(str, row["top_features"][:4]))
        table.add_row(
            str(Head(row["layer"], row["head"])), str(row["views_passed"]), *cells, f"{row['top10_share']:.2f}", named
        )
    counted = f"{len(candidates)} of {len(rows)} heads are candidates to be monosemantic"
    return [counted, table] if candidates else [counted]


def _made_of(run: Run) -> list[RenderableType]:
    rows = read_whole(run, "qk_heads").to_pylist()
    gap = max(row["gap"] for row in rows)
    table = _table("head", "features r2", "bias r2", "error r2")
    best = sorted(rows, key=lambda row: -(row["features_r2"] or 0))[:_SHOWN]
    for row in best:
        cells = ("" if row[name] is None else f"{row[name]:.2f}" for name in ("features_r2", "bias_r2", "error_r2"))
        table.add_row(str(Head(row["layer"], row["head"])), *cells)
    return [f"scores of real pairs are their parts together to {gap:.0e} nats", table]


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number > 1 else "left", no_wrap=True)
    return table
