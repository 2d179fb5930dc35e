"""The map: communities together, linked communities near each other, nothing over anything else."""

from __future__ import annotations

import random

import numpy as np
import pytest

from qkatlas.pipeline.graph.layout import map_layout
from qkatlas.pipeline.graph.neighbours import Graph


def graph_of(links: set[tuple[int, int]], size: int) -> Graph:
    """A graph from pairs of vertices; the order of a pair, and loops, are dropped."""
    pairs = np.array(sorted({(min(link), max(link)) for link in links if link[0] != link[1]}), np.int32).reshape(-1, 2)
    return Graph(
        token_ids_N=np.arange(size, dtype=np.int32),
        source_E=pairs[:, 0],
        target_E=pairs[:, 1],
        weight_E=np.ones(len(pairs), np.float32),
        directed=False,
        n_short=0,
    )


def random_links(rng: np.random.Generator, own: np.ndarray, count: int) -> set[tuple[int, int]]:
    """A few links of each vertex to others of its community."""
    return {
        (vertex, int(end))
        for vertex, community in enumerate(own.tolist())
        for end in rng.choice(np.flatnonzero(own == community), count)
    }


def apart(place_N2: np.ndarray) -> np.ndarray:
    """Distances between points, infinite from a point to itself."""
    apart_NN = np.linalg.norm(place_N2[:, None] - place_N2[None], axis=2)
    np.fill_diagonal(apart_NN, np.inf)
    return apart_NN


@pytest.mark.parametrize("seed", [0, 1])
def test_linked_communities_are_neighbours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, size = 40, 30
    group_K = rng.permutation(count) % 4  # groups of ten communities, unrelated to their numbers
    own = np.repeat(np.arange(count), size)
    links = random_links(rng, own, 6)
    for vertex, community in enumerate(own.tolist()):
        for mate in rng.choice(np.flatnonzero((group_K == group_K[community]) & (np.arange(count) != community)), 2):
            links.add((vertex, int(mate * size + rng.integers(size))))
    place_N2 = map_layout(graph_of(links, len(own)), own.astype(np.int32), seed=seed)
    centre_K2 = np.array([place_N2[own == community].mean(0) for community in range(count)])
    nearest_K3 = np.argsort(apart(centre_K2), axis=1)[:, :3]
    assert (group_K[nearest_K3] == group_K[:, None]).mean() > 0.85  # 9 / 39 by chance


def test_discs_do_not_overlap_and_the_best_linked_stand_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    own = np.repeat(np.arange(12), np.arange(240, 0, -20))
    links = random_links(rng, own, 3) | {(a, b) for a, b in rng.integers(0, len(own), (200, 2)).tolist()}
    graph = graph_of(links, len(own))
    place_N2 = map_layout(graph, own.astype(np.int32), seed=0)
    assert (own[apart(place_N2).argmin(1)] == own).all()
    centres = np.array([place_N2[own == community].mean(0) for community in range(12)])
    radius = np.sqrt(np.bincount(own) / np.pi)
    distance = apart(centres)
    assert (distance > 1.1 * (radius[:, None] + radius)).all()
    for community in range(12):
        members = np.flatnonzero(own == community)
        best = members[graph.degree_N[members].argmax()]
        away = np.linalg.norm(place_N2[members] - centres[community], axis=1)
        assert np.linalg.norm(place_N2[best] - centres[community]) < 1.5 < away.max()
    # The map is no larger than it must be: the discs fill a fair part of it.
    assert np.ptp(place_N2, axis=0).prod() < 8 * len(own)


def test_a_hub_does_not_pull_the_map_onto_itself() -> None:
    own = np.repeat(np.arange(20), 60)
    links = random_links(np.random.default_rng(0), own, 4) | {(vertex, 1200) for vertex in range(1200)}
    place_N2 = map_layout(graph_of(links, 1201), np.append(own, 20).astype(np.int32), seed=0)
    assert (own[apart(place_N2[:1200]).argmin(1)] == own).all()


def test_communities_without_links_stay_in_sight() -> None:
    own = np.repeat(np.arange(9), 50)
    place_N2 = map_layout(graph_of(random_links(np.random.default_rng(0), own, 4), 450), own.astype(np.int32), seed=0)
    assert np.ptp(place_N2, axis=0).max() < 6 * np.sqrt(450)
    assert (own[apart(place_N2).argmin(1)] == own).all()


def test_isolated_vertices_stand_on_the_rim() -> None:
    own = np.repeat(np.arange(5), 40)
    graph = graph_of(random_links(np.random.default_rng(0), own, 4), 240)
    community_N = np.concatenate([own, np.arange(5, 45)]).astype(np.int32)
    place_N2 = map_layout(graph, community_N, seed=0)
    np.testing.assert_array_equal(place_N2, map_layout(graph, community_N, seed=0))
    assert np.isfinite(place_N2).all()
    radius_N = np.linalg.norm(place_N2, axis=1)
    assert radius_N[200:].min() > radius_N[:200].max()
    assert apart(place_N2).min() > 0.3


def test_an_isolated_vertex_among_the_smallest_communities_changes_no_other_place() -> None:
    own = np.concatenate([np.repeat(np.arange(6), 10), [6, 7]])
    links = random_links(np.random.default_rng(0), own[:60], 3) | {(60, 0), (61, 10)}
    without = map_layout(graph_of(links, 62), own.astype(np.int32), seed=0)
    # The isolated vertex bears the name of a community between two others.
    named = np.concatenate([own[:60], [6, 8, 7]]).astype(np.int32)
    place_N2 = map_layout(graph_of(links, 63), named, seed=0)
    np.testing.assert_array_equal(place_N2[:62], without)
    assert np.linalg.norm(place_N2[62]) > np.linalg.norm(place_N2[:62], axis=1).max()


def test_one_community_and_no_edge_have_a_map_too() -> None:
    one = map_layout(graph_of({(0, 1), (1, 2)}, 3), np.zeros(3, np.int32), seed=0)
    assert apart(one).min() > 0.5
    none = map_layout(graph_of(set(), 4), np.arange(4, dtype=np.int32), seed=0)
    assert apart(none).min() > 0.5


def test_a_map_leaves_the_global_random_state_alone() -> None:
    graph = graph_of({(0, 1), (2, 3), (1, 2)}, 4)
    random.seed(5)
    before = random.getstate()
    map_layout(graph, np.array([0, 0, 1, 1], np.int32), seed=1)
    assert random.getstate() == before
