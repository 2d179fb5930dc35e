"""The answer of a neurons run: how good the bag is, and the neurons that are most of the document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.vocabulary import printable

_NEURONS, _WORDS = 8, 5


def median_of(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
    """Median of a column over the neurons that have a value; None without any."""
    values = [row[column] for row in rows if row[column] is not None]
    return float(np.median(values)) if values else None


def neurons_of_contexts(run: Run) -> Group:
    """Medians over all neurons, and those of the largest share of variance between documents.

    Args:
        run: a finished neurons run.
    """
    rows = read_whole(run, "neurons").to_pylist()
    texts = read_whole(run, "tokens").sort_by("token_id")["text"].to_pylist()
    group = [f"L{row['layer']}H{row['head']}" for row in read_whole(run, "bags").to_pylist() if row["in_group"]]
    said = []
    for name in ("r_group", "fvu_group", "r_group_null", "fvu_group_null", "r_pre", "fvu_pre"):
        value = median_of(rows, name)
        said.append(f"{name} {'-' if value is None else format(value, '.3g')}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("neuron", no_wrap=True)
    for name in ("ICC", "r_group", "r_pre"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("up", "down"):
        table.add_column(name)
    known = [row for row in rows if row["contextuality"] is not None]
    for row in sorted(known, key=lambda row: -row["contextuality"])[:_NEURONS]:
        numbers = [row[name] for name in ("contextuality", "r_group", "r_pre")]
        words = [" ".join(_shown(texts[token]) for token in row[end][:_WORDS]) for end in ("top_ids", "bottom_ids")]
        cells = ("" if value is None else f"{value:.2f}" for value in numbers)
        table.add_row(str(row["neuron"]), *cells, *words, end_section=False)
    counted = f"{len(rows)} neurons behind {', '.join(group)}; medians: {', '.join(said)}"
    return Group(counted, "", table)


def _shown(text: str) -> str:
    return printable(text.encode()).strip().replace("[", "\\[")
