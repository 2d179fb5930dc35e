"""The sections of a report that show features: a head's ten, and which heads' are of one kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from qkatlas.jobs.report.section import Section, Shown, columns, printable_cell, table_section
from qkatlas.outputs.report.pack import plain
from qkatlas.outputs.runs.reader import open_table
from qkatlas.pipeline.features.kinds import Z
from qkatlas.pipeline.text.vocabulary import printable

_TOKENS = 6
"""Tokens of each list of a feature."""

_COLUMNS = (
    "layer", "head", "monosemantic_candidate", "views_passed", "logit_similarity", "logit_null_mean", "logit_null_high",
    "logit_z", "source_similarity", "source_null_mean", "source_null_high", "source_z", "encoder_similarity",
    "encoder_null_mean", "encoder_null_high", "encoder_z", "top10_share", "top10_entropy", "top10_density",
    "share_mean",
)  # fmt: skip

_OF_FEATURE = (
    "density", "activation_max", "decoder_norm", "heads_effective", "fve_top", "copies_source", "copies_source_null",
)  # fmt: skip


def heads_features(shown: Shown) -> dict[str, Any]:
    """A row for each head, and its features with the tokens that they fire on, come from, promote and suppress.

    Args:
        shown: a finished run with a dictionary of z.

    Raises:
        ValueError: if a table is damaged.
    """
    heads = shown.table("heads").sort_by([("layer", "ascending"), ("head", "ascending")])
    texts = [printable(text.encode()) for text in shown.table("tokens").sort_by("token_id")["text"].to_pylist()]
    rows = heads.to_pylist()
    wanted: dict[int, set[int]] = {}
    for row in rows:
        wanted.setdefault(row["layer"], set()).update(row["top_features"])
    named = _Named(texts)
    features: dict[tuple[int, int], dict[str, Any]] = {}
    for layer, ids in wanted.items():
        features |= _of_layer(shown, layer, sorted(ids), named)
    share = {
        (row["layer"], row["head"], row["feature"]): row["share"]
        for row in _some(shown, "attribution", pc.field("rank") <= 10).to_pylist()
    }
    return {
        "table": columns(heads, _COLUMNS, cell=printable_cell),
        "heads": [
            [{**features[row["layer"], feature], "share": share[row["layer"], row["head"], feature]}
             for feature in row["top_features"]]
            for row in rows
        ],
        "dictionaries": columns(shown.table("dictionaries"), cell=printable_cell),
        "texts": shown.pack.texts(named.listed),
    }  # fmt: skip


class _Named:
    """Tokens that a section names, each once.

    Args:
        texts: of all tokens.
    """

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self._places: dict[int, int] = {}
        self.listed: list[str] = []

    def places(self, token_ids: Iterable[int | None]) -> list[int]:
        """Where the first different ones of some tokens stand in the list."""
        different = list(dict.fromkeys(token for token in token_ids if token is not None))[:_TOKENS]
        for token in different:
            if token not in self._places:
                self._places[token] = len(self.listed)
                self.listed.append(self._texts[token])
        return [self._places[token] for token in different]


def _of_layer(shown: Shown, layer: int, ids: list[int], named: _Named) -> dict[tuple[int, int], dict[str, Any]]:
    of_features = (pc.field("layer") == layer) & pc.field("feature").isin(ids)
    of_z = of_features & (pc.field("reads") == Z)
    found = {}
    for row in _some(shown, "features", of_z).to_pylist():
        found[layer, row["feature"]] = {
            "feature": row["feature"],
            **{name: plain(row[name]) for name in _OF_FEATURE},
            "promotes": named.places(row["logit_top_ids"]),
            "suppresses": named.places(row["logit_bottom_ids"]),
            "fires": [], "from": [], "relation": None,
        }  # fmt: skip
    contexts = _some(shown, "contexts", of_z).sort_by([("feature", "ascending"), ("rank", "ascending")])
    for feature, of_one in _grouped(contexts.to_pylist()).items():
        found[layer, feature]["fires"] = named.places(row["token_id"] for row in of_one)
        found[layer, feature]["from"] = named.places(row["source_token_id"] for row in of_one)
    for feature, of_one in _grouped(_some(shown, "dfa", of_features).to_pylist()).items():
        best = max(of_one, key=lambda row: row["share"] - row["chance"])
        value = "" if best["value"] is None else f" {best['value']}"
        found[layer, feature]["relation"] = {
            "name": f"{best['source'].replace('_', ' ')}{value}", "share": best["share"], "chance": best["chance"],
        }  # fmt: skip
    return found


def _some(shown: Shown, table: str, which: pc.Expression) -> pa.Table:
    """Some rows of a table, without reading the others into memory."""
    return open_table(shown.run, table).to_table(filter=which)


def _grouped(rows: Iterable[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["feature"], []).append(row)
    return found


SECTIONS = (
    Section(
        kind="features", place=24,
        needs=("heads", "features", "contexts", "dfa", "attribution", "dictionaries", "tokens"), build=heads_features,
    ),
    table_section(
        "qk-heads", table="qk_heads", place=25, title="What scores are made of",
        how="Scores of real pairs, taken apart by a dictionary of the residual stream: features, biases, and what the "
        "dictionary leaves over. An r2 near 1 of the error says that the dictionary misses what the head reads.",
    ),
)  # fmt: skip
