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
_STEP = 1.0
"""Farthest that a vertex moves in the first iteration; neighbours on the map are about 1 apart."""

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


def map_layout(graph: Graph, community_N: Int32Array, *, seed: int) -> Float32Array:
    """Place the vertices of a graph on a plane.

    The algorithm of Fruchterman and Reingold, as igraph has it, starts from a disc for each community: the largest in
    the middle, the isolated vertices on the rim, and in each disc the vertices of the highest degree in the middle.
    Vertices then move a few places, so that linked ones come together and the communities stay apart. Attraction grows
    with the square of the distance, and a key that half of the vocabulary attends to would pull the whole map onto one
    spot: each edge's weight is therefore divided by the square of its length at the start and by the geometric mean of
    its ends' degrees.

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
    start_N2 = _discs(graph.degree_N, community_N)
    igraph.set_random_number_generator(random.Random(seed))
    try:
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


def _discs(degree_N: Int32Array, community_N: Int32Array) -> Float64Array:
    """A disc for each community, its area that of its size; the discs themselves along a spiral."""
    sizes = np.bincount(community_N)
    before = np.cumsum(sizes) - sizes
    centres: Float64Array = 1.3 * _spiral(np.arange(len(sizes)), before + sizes / 2)
    order_N = np.lexsort((-degree_N, community_N))
    place_N = np.empty(len(order_N), np.int64)
    place_N[order_N] = np.arange(len(order_N)) - before[community_N[order_N]]
    within_N2: Float64Array = 0.8 * _spiral(place_N, place_N + 0.5)
    placed_N2: Float64Array = centres[community_N] + within_N2
    return placed_N2


def _spiral(number: npt.NDArray[np.int64], area: npt.NDArray[np.floating[Any]]) -> Float64Array:
    """Points at the edge of a circle of some area, each a golden angle further than the one before."""
    radius, angle = np.sqrt(area / np.pi), number * _GOLDEN_ANGLE
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
