"""The published figures of where the first layer's heads look: the runs they stand on, and what these say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.windows import SHORTEST
from qkatlas.jobs.positions.job import PositionsJob
from qkatlas.jobs.positions.spec import Positions
from qkatlas.jobs.reproduce.published import DEFINED, PUBLISHED, Facts
from qkatlas.jobs.reproduce.verdicts import Measured, absent
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.positions.embedded import Embedded

_Found = dict[tuple[str, str], Measured]

_WIDTH, _SCALE, _ERROR = "positions.width", "positions.layer_norm", "positions.error"

EVERY = 8
"""Every so many positions count in the mean of what LayerNorm divides by."""


def first_layer_jobs(facts: Facts, model: Model) -> Iterator[tuple[str, PositionsJob]]:
    """Jobs about layer 0, by the names that their runs have in `first_layer`.

    As defined the query that stands for all is the mean one; as published it is that of one stopword. None where the
    model has no text to be compared on, and none as published where it has no such token.

    Args:
        facts: the published figures.
        model: the model.
    """
    if not model.vocabulary.has_tokenizer or model.checkpoint.architecture.n_ctx < SHORTEST:
        return
    yield _name(DEFINED), PositionsJob(Positions(layers="0"), model)
    token = model.vocabulary.find(facts.data["first_layer_destination"])
    if token is not None:
        yield _name(PUBLISHED), PositionsJob(Positions(layers="0", destination=f"#{token}"), model)


def first_layer(facts: Facts, model: Model, runs: Mapping[str, Run]) -> _Found:
    """What these runs say of the published figures.

    Args:
        facts: the published figures.
        model: the model.
        runs: by their names.

    Raises:
        ValueError: if a run is damaged.
    """
    found: _Found = {}
    for variant in (DEFINED, PUBLISHED):
        rows = None
        if _name(variant) in runs:
            rows = {
                Head(row["layer"], row["head"]): row
                for row in read_whole(runs[_name(variant)], "positions").to_pylist()
            }
        found |= of_rows(facts, variant, rows)
    rows_TD = Embedded.of(model.checkpoint, model.checkpoint.architecture.n_ctx)
    return found | of_scale(*rows_TD.scales(every=EVERY))


def of_scale(low: float, mean: float, high: float) -> _Found:
    """What the first LayerNorm divides by: 5th percentile, mean and 95th percentile."""
    return {(_SCALE, DEFINED): Measured(value=mean, text=f"{mean:.4g} (90% from {low:.4g} to {high:.4g})")}


def of_rows(facts: Facts, variant: str, rows: Mapping[Head, Mapping[str, Any]] | None) -> _Found:
    """What the heads of layer 0 say in one variant.

    Args:
        facts: the published figures.
        variant: as defined or as published.
        rows: of `positions`, by head; None where there is no run.
    """
    groups: Mapping[str, Mapping[str, Any]] = facts.data["first_layer"]
    wanted = [*groups, _WIDTH, *([_ERROR] if variant == DEFINED else [])]
    if rows is None:
        reason = "the model has no such token, or no tokenizer that reads a text"
        return {(figure, variant): absent(reason) for figure in wanted}
    found: _Found = {}
    for figure, group in groups.items():
        heads = [Head.parse(name) for name in group["heads"]]
        found[figure, variant] = _count(heads, group["class"], rows)
    contextual = [Head.parse(name) for name in groups["heads.contextual"]["heads"]]
    for figure, column in ((_WIDTH, "width"), (_ERROR, "tv_factorised")):
        if figure in wanted:
            found[figure, variant] = _median(contextual, column, rows)
    return found


def _count(heads: Sequence[Head], name: str, rows: Mapping[Head, Mapping[str, Any]]) -> Measured:
    if missing := [str(head) for head in heads if head not in rows]:
        return absent(f"the model has no head {', '.join(missing)}")
    count = sum(rows[head]["class"] == name for head in heads)
    listed = ", ".join(f"{head} {rows[head]['class']} ({rows[head]['class_margin']:.2f})" for head in heads)
    others = [str(head) for head, row in rows.items() if row["class"] == name and head not in heads]
    note = listed + (f"; of this class too: {', '.join(others)}" if others else "")
    return Measured(value=count, text=f"{count} of {len(heads)}", note=note)


def _median(heads: Sequence[Head], column: str, rows: Mapping[Head, Mapping[str, Any]]) -> Measured:
    if missing := [str(head) for head in heads if head not in rows]:
        return absent(f"the model has no head {', '.join(missing)}")
    listed = ", ".join(f"{head} {rows[head][column]:.3g}" for head in heads)
    return Measured(value=float(np.median([rows[head][column] for head in heads])), note=listed)


def _name(variant: str) -> str:
    return f"positions {variant}"
