"""Everything that `submit diff` says of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkatlas.jobs.diff.common import Common
from qkatlas.jobs.diff.compare import Difference, Rows, difference, kept, rows_of
from qkatlas.jobs.diff.match import Match, match, overlaps
from qkatlas.jobs.inputs.head_tables import HeadTables
from qkatlas.outputs.runs.reader import read_whole, table_names
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text import streams

SAMPLE = 2000
"""Common tokens by which every pair of heads is compared."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two runs.

    Attributes:
        common: their tokens.
        sizes: of their vocabularies.
        k: best keys that are looked at.
        settings: names of settings in which they differ, with both values.
        same_model: whether their weights are the same.
        heads: the heads that both have, in order.
        matches: which head of the first run is which of the second; empty where one has a single head.
        chance: mean and standard deviation of `changed` between heads that are not matched: what unrelated heads give.
    """

    common: Common
    sizes: tuple[int, int]
    k: int
    settings: Mapping[str, tuple[Any, Any]]
    same_model: bool
    heads: Sequence[Difference]
    matches: Sequence[Match]
    chance: tuple[float, float] | None


def compare(one: Run, other: Run, *, moved: int) -> Compared:
    """Compare two finished runs.

    Args:
        one: the first.
        other: the second.
        moved: tokens that moved most to list for each head.

    Raises:
        ValueError: if a run is not finished or damaged, has no QK tables, or they have no token in common.
    """
    first, second = HeadTables.all(one), HeadTables.all(other)
    k = min(kept(first), kept(second))
    common = Common.of(next(iter(first.values())), next(iter(second.values())))
    rng = streams.COMMON_TOKENS.generator(len(common))
    sample = np.sort(rng.permutation(len(common))[:SAMPLE])
    ids, places = (common.first_C, common.second_C), (common.place_of_first, common.place_of_second)
    sampled: tuple[dict[Head, np.ndarray], dict[Head, np.ndarray]] = {}, {}
    found = []
    for head in sorted({*first, *second}):
        rows: list[Rows] = []
        for side, tables in enumerate((first, second)):
            if head in tables:
                rows.append(rows_of(tables[head], ids[side], places[side], k))
                sampled[side][head] = rows[-1].keys_CK[sample]
        if len(rows) == 2:
            found.append(difference(head, rows[0], rows[1], common, moved))
    overlap_MN = overlaps(list(sampled[0].values()), list(sampled[1].values()), len(common))
    matches, chance = [], None
    if min(overlap_MN.shape) > 1:
        tables_of_heads = [read_whole(run, "heads") if "heads" in table_names(run) else None for run in (one, other)]
        matches = match(list(first), list(second), overlap_MN, *tables_of_heads)
        unrelated = np.ones(overlap_MN.shape, np.bool_)
        for pair in matches:
            unrelated[list(first).index(pair.head), list(second).index(pair.other)] = False
        chance = float((1 - overlap_MN[unrelated]).mean()), float(overlap_MN[unrelated].std())
    requests = [manifest.request for run in (one, other) if (manifest := run.manifest()) is not None]
    return Compared(
        common=common,
        sizes=(len(common.place_of_first), len(common.place_of_second)),
        k=k,
        settings=_differing(requests[0].spec, requests[1].spec),
        same_model=requests[0].weights_sha256 == requests[1].weights_sha256,
        heads=found,
        matches=matches,
        chance=chance,
    )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted({*one, *other})
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
