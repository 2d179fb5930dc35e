"""The section of a report that shows a map: one head's tokens, their communities and places.

Shapes: P tokens on the map, C communities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.jobs.full_vocab.sections import LEFT_OUT, TOKENS, head_tokens
from qkatlas.jobs.report.section import Section, Shown
from qkatlas.pipeline.text.vocabulary import printable

COLOURS = 6
"""Colours of the map's communities: those of Okabe and Ito that stand out on white and on black."""

_NAMED, _NAMING_TOKENS = 400, 3
"""Communities that get a name on the map, and how many tokens make one."""

_COLOURED = 3000
"""Communities whose colour is chosen by their neighbours' colours; smaller ones take turns."""


def mapped_tokens(shown: Shown) -> dict[str, Any]:
    """The tokens of the run that a map was made from, with the map.

    Args:
        shown: a communities run, with its source.

    Raises:
        ValueError: if a table is damaged.
    """
    assert shown.source is not None, "the section names one"
    tokens = shown.source.table("tokens").sort_by("token_id")["text"].to_pylist()
    texts = [printable(text.encode()) for text in tokens]
    return {**head_tokens(shown.source), "map": _map(shown, texts)}


def _map(shown: Shown, texts: list[str]) -> dict[str, Any]:
    """Places, communities and their names."""
    rows, pack = shown.table("communities").sort_by("token_id"), shown.pack
    ids_P, community_P, degree_P = (rows[name].to_numpy() for name in ("token_id", "community", "degree"))
    x_P, y_P = _numbers(rows, "x"), _numbers(rows, "y")
    _, community_P, size_C = np.unique(community_P, return_inverse=True, return_counts=True)
    order_P = np.lexsort((ids_P, -degree_P, community_P))
    members_C = np.split(order_P, np.cumsum(size_C)[:-1])
    centre_C2 = np.array([[np.median(x_P[members]), np.median(y_P[members])] for members in members_C])
    named = [place for place in np.argsort(-size_C, kind="stable") if size_C[place] > 1][:_NAMED]
    return {
        "run": shown.run.folder.name,
        "token_ids": pack.ids(ids_P),
        "x": pack.array(x_P),
        "y": pack.array(y_P),
        "community": pack.ids(community_P),
        "degree": pack.ids(degree_P),
        "stability": pack.array(_numbers(rows, "stability")) if "stability" in rows.column_names else None,
        "agreement": _agreement(shown),
        "sizes": pack.ids(size_C),
        "colours": pack.ids(spread_colours(centre_C2, size_C)),
        "names": [
            {
                "community": int(place),
                "x": float(centre_C2[place, 0]),
                "y": float(centre_C2[place, 1]),
                "tokens": _naming(ids_P[members_C[place]], texts),
            }
            for place in named
        ],
    }


def _agreement(shown: Shown) -> dict[str, Any] | None:
    """Restarts of the search, and how far the shown partition agrees with the others."""
    if "restarts" not in shown.tables:
        return None
    rows = shown.table("restarts").to_pylist()
    best = next(row for row in rows if row["is_best"])
    return {"restarts": len(rows), "ari": best["ari_mean"]}


def _naming(ids: np.ndarray, texts: list[str]) -> list[int]:
    """The first tokens that differ by more than case and spaces."""
    found: dict[str, int] = {}
    for token_id in ids.tolist():
        found.setdefault(texts[token_id].strip().casefold() or texts[token_id], token_id)
        if len(found) == _NAMING_TOKENS:
            break
    return list(found.values())


def spread_colours(centre_C2: np.ndarray, size_C: np.ndarray) -> np.ndarray:
    """Colours such that communities near each other differ.

    Greedy, largest first: each community takes the colour whose bearers so far weigh least by 1 / squared distance.

    Args:
        centre_C2: float [C, 2], places on the map.
        size_C: int [C], tokens.

    Returns:
        int [C], 1 to COLOURS; 0 = grey for communities of one token.
    """
    colour_C = np.zeros(len(size_C), dtype=np.int64)
    order = [place for place in np.argsort(-size_C, kind="stable") if size_C[place] > 1]
    spread = max(float(np.ptp(centre_C2, axis=0).max()), 1e-9) if len(centre_C2) else 1.0
    done = np.array(order[:_COLOURED], dtype=np.int64)
    for turn, place in enumerate(order):
        if turn >= _COLOURED:
            colour_C[place] = 1 + turn % COLOURS
            continue
        before = done[:turn]
        away_B = ((centre_C2[before] - centre_C2[place]) ** 2).sum(axis=1) / spread**2
        crowd = np.bincount(colour_C[before] - 1, weights=1 / (away_B + 1e-9), minlength=COLOURS)
        colour_C[place] = 1 + int(crowd.argmin())
    return colour_C


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A float column, with NaN for null."""
    values: np.ndarray = table[name].to_numpy().astype(np.float32)
    return values


SECTIONS = (
    Section(kind=TOKENS.kind, place=TOKENS.place, needs=("communities",), build=mapped_tokens, source="source"),
    LEFT_OUT,
)
