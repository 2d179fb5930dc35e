"""A map of a graph: two coordinates for each vertex.

Shapes: N vertices, E edges, K communities.
"""

from __future__ import annotations

import random
from typing import Any

import igraph
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from qkatlas.pipeline.graph.neighbours import Graph

_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_ITERATIONS = 500
_FAINT = 1e-3
"""Weight, beside the strongest link's 1, that holds communities without links within sight of the largest."""

_MARGIN = 1.2
"""Room of a disc beside its own radius, so that neighbouring discs stay apart to the eye."""

_SPREAD = 1.5
"""Root mean square distance of the discs from the middle at first, as a multiple of the radius of their whole area."""

_GATHER, _ROUNDS = 100, 600
"""Rounds of pushing discs apart: those that also draw them to the middle, and all at most."""

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


def map_layout(graph: Graph, community_N: Int32Array, *, seed: int) -> Float32Array:
    """Place the vertices of a graph on a plane.

    Each community is a disc. The discs stand where the algorithm of Fruchterman and Reingold, as igraph has it, puts
    the vertices of the graph of communities, so that linked communities are neighbours; overlapping discs are then
    pushed apart. In its disc a vertex stands the nearer to the middle the higher its degree, and its place says nothing
    else. Isolated vertices stand on the rim.

    Args:
        graph: the graph.
        community_N: community of each vertex, named by descending size.
        seed: of the places from which the communities start.

    Returns:
        float32 [N, 2], about one vertex a unit of area within a disc.

    Source:
        Fruchterman and Reingold, Graph drawing by force-directed placement, 1991; the discs are filled as in Vogel, A
        better way to construct the sunflower head, 1979.
    """
    linked_N = graph.degree_N > 0
    placed_N2 = np.empty((len(community_N), 2))
    rim = 0.0
    if linked_N.any():
        # Isolated vertices are communities too, and stand anywhere among the smallest.
        disc_N = np.zeros(len(community_N), np.int64)
        disc_N[linked_N] = np.unique(community_N[linked_N], return_inverse=True)[1]
        sizes_K = np.bincount(disc_N[linked_N])
        radius_K = _MARGIN * np.sqrt(sizes_K / np.pi)
        centre_K2 = _part(_centres(graph, disc_N, sizes_K, seed), radius_K)
        rim = float((np.hypot(*centre_K2.T) + radius_K).max())
        placed_N2[linked_N] = centre_K2[disc_N[linked_N]] + _sunflowers(graph.degree_N[linked_N], disc_N[linked_N])
    lone = np.arange(int((~linked_N).sum()))
    placed_N2[~linked_N] = _spiral(lone, np.pi * rim**2 + lone + 0.5)
    return placed_N2.astype(np.float32)


def _centres(graph: Graph, disc_N: Int64Array, sizes_K: Int64Array, seed: int) -> Float64Array:
    """Places of the communities by the links between them, on any scale, [K, 2].

    A link's weight is that of all edges between two communities, divided by the geometric mean of their sizes: a large
    community has more edges to everything.
    """
    count = len(sizes_K)
    ends_E2 = np.sort(disc_N[np.stack([graph.source_E, graph.target_E], axis=1)], axis=1)
    between_E = ends_E2[:, 0] != ends_E2[:, 1]
    pair, place = np.unique(ends_E2[between_E] @ [count, 1], return_inverse=True)
    low, high = pair // count, pair % count
    weight = np.bincount(place, graph.weight_E[between_E]) / np.sqrt(sizes_K[low] * sizes_K[high])
    edges = np.concatenate([np.stack([low, high], 1), np.stack([np.zeros(count - 1, int), np.arange(1, count)], 1)])
    weights = np.concatenate([weight / weight.max(initial=0.0), np.full(count - 1, _FAINT)])
    igraph.set_random_number_generator(random.Random(seed))
    try:
        placed = igraph.Graph(n=count, edges=edges).layout_fruchterman_reingold(
            weights=weights.tolist(), niter=_ITERATIONS
        )
    finally:
        igraph.set_random_number_generator(random)
    return np.array(placed.coords, dtype=np.float64).reshape(-1, 2)


def _part(centre_K2: Float64Array, radius_K: Float64Array) -> Float64Array:
    """Scale places up to the discs' size and push overlapping discs apart, the smaller ones further."""
    place_K2 = centre_K2 - np.average(centre_K2, axis=0, weights=radius_K**2)
    spread = np.sqrt(np.average((place_K2**2).sum(axis=1), weights=radius_K**2))
    place_K2 *= _SPREAD * np.sqrt((radius_K**2).sum()) / max(spread, 1e-9)
    for turn in range(_ROUNDS):
        # Two discs overlap only if the smaller one's middle is within twice the larger one's radius.
        near = cKDTree(place_K2).query_ball_point(place_K2, 2 * radius_K, return_sorted=True)
        a = np.repeat(np.arange(len(near)), [len(found) for found in near])
        b = np.concatenate([np.asarray(found, dtype=np.int64) for found in near])
        chosen = (radius_K[a] > radius_K[b]) | ((radius_K[a] == radius_K[b]) & (a < b))
        a, b = a[chosen], b[chosen]
        apart_P2 = place_K2[a] - place_K2[b]
        distance_P = np.maximum(np.hypot(*apart_P2.T), 1e-9)
        overlap_P = np.maximum(radius_K[a] + radius_K[b] - distance_P, 0)
        if turn >= _GATHER and overlap_P.max(initial=0) < 0.01 * radius_K.min():
            break
        if turn < _GATHER:
            place_K2 *= 0.995
        push_P2 = 0.5 * (overlap_P / distance_P)[:, None] * apart_P2
        share_P1 = (radius_K[b] ** 2 / (radius_K[a] ** 2 + radius_K[b] ** 2))[:, None]
        np.add.at(place_K2, a, push_P2 * share_P1)
        np.add.at(place_K2, b, -push_P2 * (1 - share_P1))
    return place_K2


def _sunflowers(degree_N: Int32Array, disc_N: Int64Array) -> Float64Array:
    """Place of each vertex in its disc, the highest degree in the middle."""
    sizes = np.bincount(disc_N)
    before = np.cumsum(sizes) - sizes
    order_N = np.lexsort((-degree_N, disc_N))
    place_N = np.empty(len(order_N), np.int64)
    place_N[order_N] = np.arange(len(order_N)) - before[disc_N[order_N]]
    return _spiral(place_N, place_N + 0.5)


def _spiral(number: Int64Array, area: npt.NDArray[np.floating[Any]]) -> Float64Array:
    """Points at the edge of a circle of some area, each a golden angle further than the one before."""
    radius, angle = np.sqrt(area / np.pi), number * _GOLDEN_ANGLE
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
