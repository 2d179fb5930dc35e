"""What a head scan ends with: the heads that suppress themselves most, and which layers to doubt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.inputs.hubs import left_out
from qkatlas.jobs.inputs.model import Model
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.circuit.labels import TOKEN_SHARE

_HEADS, _WRITERS = 10, 3

_COLLAPSED = 0.9
"""Mean cosine of random tokens' states from which a layer is told to have lost them."""

Row = Mapping[str, Any]


def closing(run: Run, model: Model, exclude_hubs: float | None) -> Group:
    """What a head scan ends with: heads that suppress themselves, heads that copy, and layers whose states do not hold.

    Args:
        run: a finished head-scan run.
        model: its model.
        exclude_hubs: `--exclude-hubs`; what it left out is said last.
    """
    heads = read_whole(run, "heads")
    rows = heads.to_pylist()
    tables = []
    if "ov_self_top10_share" in heads.column_names:
        tables.append(_written(rows))
    if heads["self_z_mean"].null_count < len(rows) or not tables:
        tables.insert(0, _most_suppressing(rows))
    lines: list[RenderableType] = list(doubts(rows))
    if exclude_hubs is not None:
        lines.append(Text(left_out(read_whole(run, "hubs"), exclude_hubs, model.vocabulary.shown)))
    return Group(*tables, *lines)


def doubts(rows: Sequence[Row]) -> Iterator[str]:
    """A line on the layers where token states do not predict attention, and one on those where they have become one.

    Args:
        rows: of the table `heads`, in order of the layers.
    """
    of_layers = {layer: list(of_layer) for layer, of_layer in groupby(rows, key=lambda row: row["layer"])}
    shares = {layer: _median(own, "token_share") for layer, own in of_layers.items()}
    low = [layer for layer, value in shares.items() if value is not None and value < TOKEN_SHARE]
    if low:
        here = [row for layer in low for row in of_layers[layer]]
        alone = _median(here, "fidelity_offset_only")
        yield (
            f"token states predict little of most heads in layers {_ranges(low)}: median correlation within rows "
            f"{_median(here, 'row_fidelity'):.2f}" + ("" if alone is None else f", by offsets alone {alone:.2f}")
        )
    collapsed = [layer for layer, own in of_layers.items() if (own[0].get("random_cosine") or 0) >= _COLLAPSED]
    if collapsed:
        yield (
            f"token states have become one in layers {_ranges(collapsed)}: the mean cosine of random tokens is "
            f"{_COLLAPSED} or more; other --states hold longer"
        )


def _median(rows: Sequence[Row], column: str) -> float | None:
    values = [row[column] for row in rows if row.get(column) is not None]
    return median(values) if values else None


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as 0-3,7."""
    runs = [list(run) for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    ends = [(run[0][1], run[-1][1]) for run in runs]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ends)


def _written(rows: Sequence[Row]) -> Table:
    """The heads that promote most tokens when they attend to them, and those that suppress most."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("head", no_wrap=True)
    for name in ("own token in top 10", "in lowest 10", "copying score", "copy suppression"):
        table.add_column(name, justify="right")
    table.add_column("label", no_wrap=True)
    chosen = [
        row
        for name in ("ov_self_top10_share", "ov_self_lowest10_share")
        for row in sorted(rows, key=lambda row: -row[name])[:_WRITERS]
        if row[name] > 0
    ]
    for row in {id(row): row for row in chosen}.values():
        joined = row["copy_suppression"]
        table.add_row(
            f"L{row['layer']}H{row['head']}",
            f"{row['ov_self_top10_share']:.0%}",
            f"{row['ov_self_lowest10_share']:.0%}",
            f"{row['copying_score']:.2f}",
            "" if joined is None else f"{joined:.1%}",
            row["label"],
        )
    return table


def _most_suppressing(rows: Sequence[Row]) -> Table:
    """The ten heads with the highest suppression index among those that prefer kin, with its 95% interval."""
    rows = [row for row in rows if row["suppression_index_mean"] is not None and row["kin_z_mean"] > 0]
    rows = sorted(rows, key=lambda row: -row["suppression_index_mean"])
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
