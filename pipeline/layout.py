"""A map of a graph: two coordinates for each vertex.

Shapes: N vertices, E edges.
"""

from __future__ import annotations

import random
from typing import Any

import igraph
import numpy as np
import numpy.typing as npt

from pipeline.graph import Graph

_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_ITERATIONS = 50
_COMMUNITY_ITERATIONS, _PUSHES = 500, 300
_MOST_DISCS = 1000
"""Communities that are placed by their edges; more of them are small ones, and stand along a spiral."""
_STEP = 1.0
"""Farthest that a vertex moves in the first iteration; neighbours on the map are about 1 apart."""

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


def map_layout(graph: Graph, community_N: Int32Array, *, seed: int) -> Float32Array:
    """Place the vertices of a graph on a plane.

    The algorithm of Fruchterman and Reingold, as igraph has it, twice. First it places the communities, drawn together
    by the edges between them; each becomes a disc with its vertices of the highest degree in the middle, discs that
    overlap are pushed apart, and isolated vertices stand on the rim. Then the vertices move a few places, so that
    linked ones come together inside their discs.

    Attraction grows with the square of the distance, and a key that half of the vocabulary attends to would pull the
    whole map onto one spot: each edge's weight is therefore divided by the square of its length at the start and by the
    geometric mean of its ends' degrees.

    Args:
        graph: the graph.
        community_N: community of each vertex, named by descending size.
        seed: of the small shifts that part vertices on one spot.

    Returns:
        float32 [N, 2], about one vertex a unit of area.

    Source:
        Fruchterman and Reingold, Graph drawing by force-directed placement, 1991; the discs are filled as in Vogel, A
        better way to construct the sunflower head, 1979.
    """
    igraph.set_random_number_generator(random.Random(seed))
    try:
        start_N2 = _discs(graph, community_N)
        placed = graph.to_igraph().layout_fruchterman_reingold(
            weights=_pull(graph, start_N2).tolist(),
            seed=start_N2.tolist(),
            niter=_ITERATIONS,
            start_temp=_STEP,
        )
    finally:
        igraph.set_random_number_generator(random)
    return np.array(placed.coords, dtype=np.float32).reshape(-1, 2)


def _pull(graph: Graph, start_N2: Float64Array) -> Float64Array:
    """Weight of each edge on the map, [E]: as it is for an edge of unit length between two vertices of usual degree."""
    length2_E = ((start_N2[graph.source_E] - start_N2[graph.target_E]) ** 2).sum(axis=1)
    degree_N = graph.degree_N.astype(np.float64)
    degree_E = np.sqrt(degree_N[graph.source_E] * degree_N[graph.target_E])
    usual = len(graph.source_E) / len(degree_N)
    pull_E: Float64Array = graph.weight_E * usual / degree_E / np.maximum(1.0, length2_E)
    return pull_E


def _discs(graph: Graph, community_N: Int32Array) -> Float64Array:
    """A disc for each community, its area that of its size, filled from the middle by descending degree."""
    sizes = np.bincount(community_N)
    before = np.cumsum(sizes) - sizes
    order_N = np.lexsort((-graph.degree_N, community_N))
    place_N = np.empty(len(order_N), np.int64)
    place_N[order_N] = np.arange(len(order_N)) - before[community_N[order_N]]
    within_N2: Float64Array = 0.8 * _spiral(place_N, place_N + 0.5)
    placed_N2: Float64Array = _centres(graph, community_N, sizes)[community_N] + within_N2
    return placed_N2


def _centres(graph: Graph, community_N: Int32Array, sizes: npt.NDArray[np.int64]) -> Float64Array:
    """Centres of the communities' discs: linked ones near each other, communities of one vertex around them all."""
    before = np.cumsum(sizes) - sizes
    along_spiral: Float64Array = 1.3 * _spiral(np.arange(len(sizes)), before + sizes / 2)
    many = int((sizes > 1).sum())  # the first ones, for communities are named by descending size
    if not 1 < many <= _MOST_DISCS:
        return along_spiral
    ends_E2 = np.sort(community_N[np.stack([graph.source_E, graph.target_E], axis=1)].astype(np.int64), axis=1)
    between_E = (ends_E2[:, 0] != ends_E2[:, 1]) & (ends_E2[:, 1] < many)
    pairs, place_E = np.unique(ends_E2[between_E] @ [many, 1], return_inverse=True)
    first, second = pairs // many, pairs % many
    weight = np.bincount(place_E, graph.weight_E[between_E]) / np.sqrt(sizes[first] * sizes[second])
    communities = igraph.Graph(n=many, edges=np.stack([first, second], axis=1))
    near = communities.layout_fruchterman_reingold(
        weights=(weight / weight.max()).tolist() if len(weight) else None,
        seed=along_spiral[:many].tolist(),
        niter=_COMMUNITY_ITERATIONS,
    )
    radius = 1.15 * np.sqrt(sizes[:many] / np.pi)
    centre_C2 = _apart(np.array(near.coords), radius)
    rim = float((np.hypot(*centre_C2.T) + radius).max())
    alone = np.arange(len(sizes) - many)
    return np.concatenate([centre_C2, _spiral(alone, np.pi * rim**2 + 1.7 * (alone + 1))])


def _apart(centre_C2: Float64Array, radius_C: Float64Array) -> Float64Array:
    """Scale a layout to the size of its discs, and push those apart that overlap."""
    centre_C2 = centre_C2 - centre_C2.mean(axis=0)
    extent = float(np.hypot(*centre_C2.T).max())
    centre_C2 *= np.sqrt((radius_C**2).sum()) / max(extent, 1e-9)
    needed_CC = radius_C[:, None] + radius_C[None]
    np.fill_diagonal(needed_CC, 0.0)
    for _ in range(_PUSHES):
        away_CC2 = centre_C2[:, None] - centre_C2[None]
        distance_CC = np.maximum(np.hypot(away_CC2[..., 0], away_CC2[..., 1]), 1e-9)
        push_CC = np.clip(needed_CC - distance_CC, 0.0, None) / distance_CC
        centre_C2 = 0.995 * (centre_C2 + 0.25 * (away_CC2 * push_CC[..., None]).sum(axis=1))
    return centre_C2


def _spiral(number: npt.NDArray[np.int64], area: npt.NDArray[np.floating[Any]]) -> Float64Array:
    """Points at the edge of a circle of some area, each a golden angle further than the one before."""
    radius, angle = np.sqrt(area / np.pi), number * _GOLDEN_ANGLE
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
