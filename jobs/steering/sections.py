"""The section of a report that shows doses and responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.jobs.report.section import Section, Shown, columns
from qkatlas.outputs.report.pack import Pack
from qkatlas.pipeline.text.vocabulary import printable


def doses(shown: Shown) -> dict[str, Any]:
    """Every dose of every method, with the heat maps of a group of words and the check in the model where they are.

    Args:
        shown: a run with table `steering`.

    Raises:
        ValueError: if a table is damaged.
    """
    section: dict[str, Any] = {"head": shown.head, "table": columns(shown.table("steering"))}
    if {"heatmap", "tokens"} <= shown.tables:
        texts = shown.table("tokens").sort_by("token_id")["text"].to_pylist()
        section["heatmap"] = _heatmap(shown.table("heatmap"), texts, shown.pack)
    if "in_model" in shown.tables:
        section["in_model"] = columns(shown.table("in_model"))
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


SECTIONS = (Section(kind="steering", place=30, needs=("steering",), build=doses),)
