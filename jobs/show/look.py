"""What one head makes of a token, from the tables of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkatlas.jobs.inputs.head_tables import HeadTables, values_of
from qkatlas.outputs.runs import store
from qkatlas.outputs.runs.part import columns_of, read_part
from qkatlas.outputs.runs.run import DamagedRunError, Run


@dataclass(frozen=True)
class Listed:
    """A token in a list.

    Attributes:
        token_id: the token.
        score: of the pair: nats, or what is added to a logit.
        place: where it stands in the list, from 1; of one that attends, where the shown token stands in its own.
    """

    token_id: int
    score: float
    place: int


@dataclass(frozen=True, kw_only=True)
class Own:
    """Where a token stands in its own row.

    Attributes:
        rank: 1 = first.
        score: to itself.
        z: (score - row mean) / row standard deviation; None where rows do not vary.
    """

    rank: int
    score: float
    z: float | None


@dataclass(frozen=True, kw_only=True)
class Community:
    """A token's community.

    Attributes:
        run: name of the run that found it.
        number: 0 = the largest.
        size: tokens in it.
        members: those with the most edges, the token itself left out.
    """

    run: str
    number: int
    size: int
    members: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that is shown of a token; None where the run does not have it.

    Attributes:
        token_id: the token.
        own: its own rank among keys.
        attends: its best keys.
        attended_by: tokens that keep it among their best keys, those first that rank it highest.
        attended_by_count: how many there are.
        kept: keys that the run keeps of each token.
        written: its own rank among what attending to it promotes.
        promotes, suppresses: what attending to it promotes and suppresses most.
        community: in the newest map of the run.
    """

    token_id: int
    own: Own | None = None
    attends: tuple[Listed, ...] | None = None
    attended_by: tuple[Listed, ...] | None = None
    attended_by_count: int | None = None
    kept: int | None = None
    written: Own | None = None
    promotes: tuple[Listed, ...] | None = None
    suppresses: tuple[Listed, ...] | None = None
    community: Community | None = None


def look(tables: HeadTables, token_ids: Sequence[int], count: int) -> list[Seen]:
    """What a head makes of some tokens.

    Args:
        tables: of the head.
        token_ids: the tokens.
        count: how many tokens of each list.

    Raises:
        ValueError: if a file is damaged.
    """
    best = _best(tables, "topk", token_ids, count)
    queries = _attending(tables, token_ids, count)
    promotes, suppresses = (_best(tables, name, token_ids, count) for name in ("ov_topk", "ov_bottomk"))
    own, written = (_owns(tables, name, token_ids) for name in ("self", "ov_self"))
    maps = _newest_map(tables.run)
    return [
        Seen(
            token_id=token,
            own=own.get(token),
            attends=best.get(token),
            attended_by=queries[token].listed if token in queries else None,
            attended_by_count=queries[token].count if token in queries else None,
            kept=queries[token].kept if token in queries else None,
            written=written.get(token),
            promotes=promotes.get(token),
            suppresses=suppresses.get(token),
            community=None if maps is None else _community(*maps, token, count),
        )
        for token in token_ids
    ]


def _best(tables: HeadTables, name: str, tokens: Sequence[int], count: int) -> dict[int, tuple[Listed, ...]]:
    """The first entries of the tokens' lists; nothing where the run has none."""
    if name not in tables:
        return {}
    token_R, ids_RK, scores_RK = tables.columns(name, "key_ids", "scores", of=tokens)
    found = {}
    for row in np.flatnonzero(np.isin(token_R, tokens)):
        pairs = zip(ids_RK[row, :count].tolist(), scores_RK[row, :count].tolist(), strict=True)
        found[int(token_R[row])] = tuple(Listed(key, score, place) for place, (key, score) in enumerate(pairs, start=1))
    return found


@dataclass(frozen=True)
class _Queries:
    """Who attends to a token: the first of them, how many in all, and keys that the run keeps of each."""

    listed: tuple[Listed, ...]
    count: int
    kept: int


def _attending(tables: HeadTables, tokens: Sequence[int], count: int) -> dict[int, _Queries]:
    """The queries that keep each token as a key, by its place in their lists, equal places by higher score."""
    if "topk" not in tables:
        return {}
    query_R, ids_RK, scores_RK = tables.columns("topk", "key_ids", "scores")
    found = {}
    for token in tokens:
        row_X, place_X = np.nonzero(ids_RK == token)
        query_X, score_X = query_R[row_X], scores_RK[row_X, place_X]
        order = np.lexsort((query_X, -score_X, place_X))[:count]
        listed = tuple(Listed(int(query_X[at]), float(score_X[at]), int(place_X[at]) + 1) for at in order)
        found[token] = _Queries(listed, len(row_X), ids_RK.shape[1])
    return found


def _owns(tables: HeadTables, name: str, tokens: Sequence[int]) -> dict[int, Own]:
    if name not in tables:
        return {}
    token_R, rank_R, score_R, z_R = tables.columns(name, "self_rank", "self_score", "self_z", of=tokens)
    return {
        int(token_R[row]): Own(
            rank=int(rank_R[row]), score=float(score_R[row]), z=None if np.isnan(z_R[row]) else float(z_R[row])
        )
        for row in np.flatnonzero(np.isin(token_R, tokens))
    }


def _newest_map(run: Run) -> tuple[str, np.ndarray, np.ndarray, np.ndarray] | None:
    """Name, tokens, communities and degrees of the newest map beside a run; None if there is none."""
    manifest = run.manifest()
    assert manifest is not None, "it was opened"
    newest = None
    for other in store.all_runs(run.folder.parent):
        if not other.folder.name.startswith("communities-"):
            continue
        try:
            found = other.manifest()
        except DamagedRunError:
            continue
        if found is None or found.request.spec.get("source") != manifest.request.run_id:
            continue
        finished = (found.provenance.finished if found.provenance else None) or ""
        if newest is None or finished > newest[0]:
            newest = finished, other, found
    if newest is None:
        return None
    _, other, found = newest
    part = next((part for part in found.parts if part.path == "communities.parquet"), None)
    if part is None:
        return None
    rows = columns_of(read_part(other.folder, part), ["token_id", "community", "degree"])
    tokens, communities, degrees = (
        values_of(rows[name].combine_chunks()) for name in ("token_id", "community", "degree")
    )
    return other.folder.name, tokens, communities, degrees


def _community(
    name: str, tokens: np.ndarray, communities: np.ndarray, degrees: np.ndarray, token: int, count: int
) -> Community | None:
    at = np.flatnonzero(tokens == token)
    if not len(at):
        return None
    number = int(communities[at[0]])
    inside = np.flatnonzero(communities == number)
    order = inside[np.argsort(-degrees[inside], kind="stable")]
    members = [int(one) for one in tokens[order] if one != token][:count]
    return Community(run=name, number=number, size=len(inside), members=tuple(members))
