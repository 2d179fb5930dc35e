"""The published figures about features of heads: the run they stand on, and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from qkatlas.jobs.features.job import FeaturesJob
from qkatlas.jobs.features.spec import Features
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.reproduce.published import DEFINED, Facts
from qkatlas.jobs.reproduce.verdicts import Measured, absent
from qkatlas.outputs.runs.reader import open_table, read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.features.dictionary import Dictionary
from qkatlas.pipeline.models.head import Head

_Found = dict[tuple[str, str], Measured]

FEATURES = "features"
"""Name of the run."""

_ONE_KIND, _NAMED, _SHARE = "features.monosemantic", "features.named", "features.share"


def feature_jobs(model: Model, dictionaries: Sequence[Dictionary]) -> Iterator[tuple[str, FeaturesJob]]:
    """The job about dictionaries, by the name that its run has in `of_features`; none without any.

    Args:
        model: the model.
        dictionaries: of its heads.

    Raises:
        ValueError: if one does not fit the model.
    """
    if dictionaries:
        yield FEATURES, FeaturesJob(Features(), model, dictionaries)


def of_features(facts: Facts, run: Run | None) -> _Found:
    """What the run says of the published figures.

    Args:
        facts: the published figures.
        run: of features; None where there are no dictionaries.

    Raises:
        ValueError: if a table is damaged.
    """
    wanted = (_ONE_KIND, _NAMED, _SHARE)
    if run is None:
        return {(figure, DEFINED): absent("no dictionaries were given; --features SAE_DIR names them")
                for figure in wanted}  # fmt: skip
    rows = {Head(row["layer"], row["head"]): row for row in read_whole(run, "heads").to_pylist()}
    feature = facts.data["published_feature"]
    which = (pc.field("layer") == feature["layer"]) & (pc.field("feature") == feature["feature"])
    found = open_table(run, "features").to_table(filter=which & (pc.field("reads") == "z"))["head_shares"].to_pylist()
    shares = found[0] if found and found[0] is not None else None
    return of_heads(facts, rows) | of_share(facts, shares)


def of_heads(facts: Facts, rows: Mapping[Head, Mapping[str, Any]]) -> _Found:
    """How many heads are candidates, and how many of those that are named.

    Args:
        facts: the published figures.
        rows: of the table `heads`.
    """
    every = facts.data["shape"]["n_layers"] * facts.data["shape"]["n_heads"]
    candidates = [head for head, row in rows.items() if row["monosemantic_candidate"]]
    listed = ", ".join(map(str, sorted(candidates)))
    if len(rows) != every:
        reason = absent(f"the dictionaries are of {len(rows)} heads, and the figure is of {every}")
        return {(_ONE_KIND, DEFINED): reason, (_NAMED, DEFINED): reason}
    named = [Head.parse(name) for name in facts.data["monosemantic_heads"]]
    hits = [head for head in named if head in candidates]
    return {
        (_ONE_KIND, DEFINED): Measured(value=len(candidates), text=f"{len(candidates)} of {every}", note=listed),
        (_NAMED, DEFINED): Measured(
            value=len(hits), text=f"{len(hits)} of {len(named)}", note=", ".join(map(str, hits)) or "none of them"
        ),
    }  # fmt: skip


def of_share(facts: Facts, shares: Sequence[float] | None) -> _Found:
    """The share of the published feature.

    Args:
        facts: the published figures.
        shares: of all heads in its decoder; None where there is no such feature.
    """
    head = facts.data["published_feature"]["head"]
    if shares is None or head >= len(shares):
        return {(_SHARE, DEFINED): absent("the dictionaries have no such feature")}
    return {(_SHARE, DEFINED): Measured(value=shares[head])}
