"""The section of a report that shows all heads of a scan, and their spectra."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkatlas.jobs.full_vocab.sections import LEFT_OUT
from qkatlas.jobs.report.section import MOST_ROWS, Section, Shown, columns, printable_cell
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


_WRITTEN = (
    "layer", "head", "label", "ov_self_top10_share", "ov_self_lowest10_share", "ov_self_rank_median", "ov_kin_z_mean",
    "copying_score", "copying_score_null_z", "copy_suppression",
)  # fmt: skip


def written(shown: Shown) -> dict[str, Any]:
    """What heads write where they attend, one row a head, those first that copy or suppress most.

    Args:
        shown: a run with the OV columns of table `heads`.

    Raises:
        ValueError: if a table is damaged.
    """
    heads = shown.table("heads")
    most_N = np.maximum(*(heads[name].to_numpy() for name in ("ov_self_top10_share", "ov_self_lowest10_share")))
    rows = heads.take(np.argsort(-most_N, kind="stable")).slice(0, MOST_ROWS)
    how = "A head that copies promotes the very token it attends to; one that suppresses pushes it down."
    return {
        "title": "What heads write",
        "how": how,
        "head": shown.head,
        "table": columns(rows, _WRITTEN, cell=printable_cell),
        "of": heads.num_rows,
    }


SECTIONS = (
    Section(kind="heads", place=20, needs=("heads",), build=all_heads),
    Section(kind="written", place=21, needs=("heads", "ov_spectrum"), build=written),
    LEFT_OUT,
)
