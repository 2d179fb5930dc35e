"""The section of a report that shows one head's tokens: who attends to whom, and the map.

Shapes: V tokens, N neighbours kept of each, C communities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.jobs.report.tables import run_head
from qkatlas.outputs.report.pack import Pack
from qkatlas.outputs.runs.reader import list_matrix, read_whole, table_names
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.vocabulary import printable

COLOURS = 6
"""Colours of the map's communities: those of Okabe and Ito that stand out on white and on black."""

_NAMED, _NAMING_TOKENS = 400, 3
"""Communities that get a name on the map, and how many tokens make one."""

_COLOURED = 3000
"""Communities whose colour is chosen by their neighbours' colours; smaller ones take turns."""

_START_WORDS = (" red", " cat", " Monday", "red", "cat", "Monday")
"""The report opens at the first of these that is a token."""


def tokens_section(run: Run, map_run: Run | None, pack: Pack, neighbours: int) -> dict[str, Any]:
    """A head's tokens, with their map where there is one.

    Args:
        run: a finished run with the tables `tokens`, `topk` and `self` of one head.
        map_run: a finished communities run made from it, or None.
        pack: takes the arrays.
        neighbours: keys of each token to keep.

    Returns:
        The section.

    Raises:
        ValueError: if a table is damaged.
    """
    tokens = read_whole(run, "tokens").sort_by("token_id")
    top, own = (read_whole(run, name).sort_by("token_id") for name in ("topk", "self"))
    texts = [printable(text.encode()) for text in tokens["text"].to_pylist()]
    keys_VK = list_matrix(top, "key_ids")
    kept = min(neighbours, keys_VK.shape[1])
    ids_V = top["token_id"].to_numpy()
    if not np.array_equal(ids_V, np.arange(len(texts))):
        raise ValueError(f"run {run.folder.name} does not hold every token once; submit the same request again")
    start = next((texts.index(word) for word in _START_WORDS if word in texts), None)
    return {
        "kind": "tokens",
        "head": run_head(run),
        "size": len(texts),
        "kept": kept,
        "stored": keys_VK.shape[1],
        "texts": pack.texts(texts),
        "special": np.flatnonzero(tokens["is_special"].to_numpy(zero_copy_only=False)).tolist()[:1000],
        "key_ids": pack.ids(keys_VK[:, :kept]),
        "scores": pack.array(list_matrix(top, "scores")[:, :kept].astype(np.float32)),
        "self_rank": pack.ids(own["self_rank"].to_numpy()),
        "self_score": pack.array(own["self_score"].to_numpy()),
        "self_z": pack.array(_numbers(own, "self_z")),
        "map": None if map_run is None else _map(map_run, pack, texts),
        "start": start,
    }


def _map(run: Run, pack: Pack, texts: list[str]) -> dict[str, Any]:
    """Places, communities and their names."""
    rows = read_whole(run, "communities").sort_by("token_id")
    ids_P, community_P, degree_P = (rows[name].to_numpy() for name in ("token_id", "community", "degree"))
    x_P, y_P = _numbers(rows, "x"), _numbers(rows, "y")
    _, community_P, size_C = np.unique(community_P, return_inverse=True, return_counts=True)
    order_P = np.lexsort((ids_P, -degree_P, community_P))
    members_C = np.split(order_P, np.cumsum(size_C)[:-1])
    centre_C2 = np.array([[np.median(x_P[members]), np.median(y_P[members])] for members in members_C])
    named = [place for place in np.argsort(-size_C, kind="stable") if size_C[place] > 1][:_NAMED]
    return {
        "run": run.folder.name,
        "token_ids": pack.ids(ids_P),
        "x": pack.array(x_P),
        "y": pack.array(y_P),
        "community": pack.ids(community_P),
        "degree": pack.ids(degree_P),
        "stability": pack.array(_numbers(rows, "stability")) if "stability" in rows.column_names else None,
        "agreement": _agreement(run),
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


def _agreement(run: Run) -> dict[str, Any] | None:
    """Restarts of the search, and how far the shown partition agrees with the others."""
    if "restarts" not in table_names(run):
        return None
    rows = read_whole(run, "restarts").to_pylist()
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
