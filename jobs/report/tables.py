"""The sections of a report that are made of one small table each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.outputs.report.pack import Pack, plain
from qkatlas.outputs.runs.reader import read_whole, table_names
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.vocabulary import printable

_SPECTRUM = ("eigenvalue", "singular_value", "sym_singular_value", "skew_singular_value")


def heads_section(run: Run, pack: Pack, *, spectrum: bool) -> dict[str, Any]:
    """What a head scan found, one row a head.

    Args:
        run: a finished run with table `heads`.
        pack: takes the eigenvalues.
        spectrum: whether the run has table `spectrum`.

    Returns:
        The section.

    Raises:
        ValueError: if a table is damaged.
    """
    heads = read_whole(run, "heads").sort_by([("layer", "ascending"), ("head", "ascending")])
    section = {"kind": "heads", "table": columns(heads), "spectrum": None}
    if spectrum:
        rows = read_whole(run, "spectrum").sort_by([(name, "ascending") for name in ("layer", "head", "index")])
        layer_N, head_N = (rows[name].to_numpy() for name in ("layer", "head"))
        starts = np.flatnonzero(np.r_[True, (np.diff(layer_N) != 0) | (np.diff(head_N) != 0)])
        section["spectrum"] = {
            "layer": layer_N[starts].tolist(),
            "head": head_N[starts].tolist(),
            "start": [*starts.tolist(), len(layer_N)],
            # Seven digits are enough for a picture; the table has all of them. Null is NaN here.
            **{name: pack.array(rows[name].to_numpy().astype(np.float32)) for name in _SPECTRUM},
        }
    return section


def steering_section(run: Run, pack: Pack) -> dict[str, Any]:
    """Every dose of every method, with the heat maps of a group of words and the check in the model where they are.

    Args:
        run: a finished run with table `steering`.
        pack: takes the scores of the heat maps.

    Returns:
        The section.

    Raises:
        ValueError: if a table is damaged.
    """
    section = {"kind": "steering", "head": run_head(run), "table": columns(read_whole(run, "steering"))}
    if {"heatmap", "tokens"} <= table_names(run):
        texts = read_whole(run, "tokens").sort_by("token_id")["text"].to_pylist()
        section["heatmap"] = _heatmap(read_whole(run, "heatmap"), texts, pack)
    if "in_model" in table_names(run):
        section["in_model"] = columns(read_whole(run, "in_model"))
    return section


def _heatmap(table: pa.Table, texts: Sequence[str], pack: Pack) -> dict[str, Any]:
    """Scores between the words of a group as one array [conditions, words, words]; NaN where there is none."""
    names, ids = table["condition"].to_pylist(), table["query_id"].to_pylist()
    conditions, words = list(dict.fromkeys(names)), list(dict.fromkeys(ids))
    place = {token_id: number for number, token_id in enumerate(words)}
    scores = np.full((len(conditions), len(words), len(words)), np.nan, np.float32)
    rows = [conditions.index(name) for name in names], [place[one] for one in ids]
    scores[*rows, [place[one] for one in table["key_id"].to_pylist()]] = table["score"].to_numpy()
    shown = [printable(texts[token_id].encode()) for token_id in words]
    return {"conditions": conditions, "words": shown, "scores": pack.array(scores)}


def ablation_section(run: Run) -> dict[str, Any]:
    """Every component against every head downstream."""
    return {"kind": "ablation", "table": columns(read_whole(run, "ablation"))}


def similarity_section(run: Run) -> dict[str, Any]:
    """Score less self score by cosine similarity."""
    return {"kind": "similarity", "head": run_head(run), "table": columns(read_whole(run, "similarity"))}


def reproduction_section(run: Run) -> dict[str, Any]:
    """Published figures beside the measured ones."""
    return {"kind": "reproduction", "head": run_head(run), "table": columns(read_whole(run, "reproduction"))}


def run_head(run: Run) -> str | None:
    """Name of the one head a run is about, if it is about one."""
    manifest = run.manifest()
    head = None if manifest is None else manifest.request.spec.get("head")
    return head if isinstance(head, str) else None


def columns(table: pa.Table, names: Sequence[str] | None = None) -> dict[str, Any]:
    """A table as JSON, with what its fields say of themselves.

    Args:
        table: the rows.
        names: columns to keep; None = all.

    Returns:
        `rows`, and for each column its values (null where none, or no number), its description and its unit.
    """
    found = {}
    for name in table.column_names if names is None else names:
        field = table.schema.field(name)
        metadata = field.metadata or {}
        found[name] = {
            "values": [plain(value) for value in table[name].to_pylist()],
            "description": metadata.get(b"description", b"").decode(),
            "unit": metadata.get(b"unit", b"").decode(),
        }
    return {"rows": table.num_rows, "columns": found}
