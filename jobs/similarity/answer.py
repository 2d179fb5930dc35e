"""The answer of a similarity run: the curve in a few rows, its crossing and its peak."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.circuit.similarity import landmarks

_ROWS = 15
LEAST = 100
"""Pairs of two tokens that a bin needs for crossing and peak."""


def similarity_curve(run: Run) -> Table:
    """The curve in about 15 rows, merged from its bins, without the pairs of a token with itself.

    Args:
        run: a finished similarity run.

    Returns:
        A table to print; its last rows tell crossing and peak, among bins of LEAST pairs or more.
    """
    rows = read_whole(run, "similarity")
    low, high, count, own = (rows[name].to_numpy() for name in ("cosine_low", "cosine_high", "count", "self_pairs"))
    mean = rows["mean"].to_numpy(zero_copy_only=False)
    others = count - own
    filled = np.flatnonzero(others)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cosine", "pairs", "mean score - self score"):
        table.add_column(name, justify="right", no_wrap=True)
    if len(filled):
        first, last = int(filled[0]), int(filled[-1])
        width = -(-(last + 1 - first) // _ROWS)
        for start in range(first, last + 1, width):
            group = slice(start, min(start + width, last + 1))
            pairs = int(others[group].sum())
            merged = np.nansum(mean[group] * count[group]) / pairs if pairs else None  # self pairs add 0 to the sum
            table.add_row(
                f"{low[group][0]:.2f} to {high[group][-1]:.2f}",
                str(pairs),
                "" if merged is None else f"{merged:.3f}",
            )
    found = landmarks(np.append(low, high[-1]), count, own, mean, least=LEAST)
    if found is not None:
        if found.crossing is not None:
            table.add_row(f"{found.crossing:.3f}", "crosses zero", "0")
        table.add_row(f"{found.peak:.3f}", "peak", f"{found.height:.3f}")
    return table
