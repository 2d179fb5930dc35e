"""The section of a report that shows all heads of a scan, and their spectra."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkatlas.jobs.full_vocab.sections import LEFT_OUT
from qkatlas.jobs.report.section import Section, Shown, columns
from qkatlas.outputs.schemas.head_scan import SPECTRUM_VALUES


def all_heads(shown: Shown) -> dict[str, Any]:
    """What a scan found, one row a head, with the eigenvalues where they are.

    Args:
        shown: a run with table `heads`.

    Raises:
        ValueError: if a table is damaged.
    """
    heads = shown.table("heads").sort_by([("layer", "ascending"), ("head", "ascending")])
    section: dict[str, Any] = {"table": columns(heads), "spectrum": None}
    if "spectrum" in shown.tables:
        rows = shown.table("spectrum").sort_by([(name, "ascending") for name in ("layer", "head", "index")])
        layer_N, head_N = (rows[name].to_numpy() for name in ("layer", "head"))
        starts = np.flatnonzero(np.r_[True, (np.diff(layer_N) != 0) | (np.diff(head_N) != 0)])
        section["spectrum"] = {
            "layer": layer_N[starts].tolist(),
            "head": head_N[starts].tolist(),
            "start": [*starts.tolist(), len(layer_N)],
            # Seven digits are enough for a picture; the table has all of them. Null is NaN here.
            **{name: shown.pack.array(rows[name].to_numpy().astype(np.float32)) for name in SPECTRUM_VALUES},
        }
    return section


SECTIONS = (Section(kind="heads", place=20, needs=("heads",), build=all_heads), LEFT_OUT)
