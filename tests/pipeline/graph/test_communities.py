"""Leiden against every partition of a small graph; agreement and stability against scikit-learn and loops."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from qkatlas.pipeline.graph.communities import agreement, by_size, find_communities, stability
from qkatlas.pipeline.graph.neighbours import Graph


def graph_of(edges: dict[tuple[int, int], float], size: int, directed: bool = False) -> Graph:
    source, target = zip(*edges, strict=True)
    return Graph(
        token_ids_N=np.arange(size, dtype=np.int32),
        source_E=np.array(source, np.int32),
        target_E=np.array(target, np.int32),
        weight_E=np.array(list(edges.values()), np.float32),
        directed=directed,
        n_short=0,
    )


def cliques(count: int, size: int, isolated: int = 0) -> Graph:
    """Cliques, each with an edge to the next, and isolated vertices."""
    edges = {
        (start + a, start + b): 1.0
        for start in range(0, count * size, size)
        for a in range(size)
        for b in range(a + 1, size)
    }
    edges |= {(start, start + size): 0.5 for start in range(0, (count - 1) * size, size)}
    return graph_of(edges, count * size + isolated)


def partitions(size: int) -> Iterator[list[int]]:
    """Every partition of a set, as restricted growth strings."""

    def grow(names: list[int]) -> Iterator[list[int]]:
        if len(names) == size:
            yield names
            return
        for name in range(max(names, default=-1) + 2):
            yield from grow([*names, name])

    return grow([])


def quality_by_definition(graph: Graph, membership: list[int], quality: str, resolution: float) -> float:
    """The quality functions as they are defined over ordered pairs; RB and CPM are not divided by the weights' sum."""
    size = len(membership)
    weights = np.zeros((size, size))
    for source, target, weight in zip(graph.source_E, graph.target_E, graph.weight_E, strict=True):
        weights[source, target] += weight
        if not graph.directed:
            weights[target, source] += weight
    total = weights.sum()
    if quality == "cpm":
        null = np.full((size, size), resolution)
        np.fill_diagonal(null, 0)
    else:
        null = resolution * np.outer(weights.sum(1), weights.sum(0)) / total
    same = np.equal.outer(membership, membership)
    value = float(((weights - null) * same).sum())
    return value / total if quality == "modularity" else value


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize(("quality", "resolution"), [("modularity", None), ("rb", 1.5), ("cpm", 0.4)])
def test_the_best_of_all_partitions_is_found(quality: str, resolution: float | None, directed: bool) -> None:
    pairs = [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (4, 5), (3, 5), (5, 6), (6, 7)]
    graph = graph_of({pair: 1.0 if place % 3 else 0.5 for place, pair in enumerate(pairs)}, 8, directed)
    found = [
        find_communities(graph, quality=quality, resolution=resolution, seed=0, restart=restart) for restart in range(4)
    ]
    membership_N, value = max(found, key=lambda one: one[1])
    gamma = 1.0 if resolution is None else resolution
    assert value == pytest.approx(quality_by_definition(graph, membership_N.tolist(), quality, gamma))
    assert value == pytest.approx(max(quality_by_definition(graph, p, quality, gamma) for p in partitions(8)))


def test_a_restart_draws_by_its_own_number() -> None:
    rng = np.random.default_rng(1)
    pairs = {tuple(sorted(pair)) for pair in rng.integers(0, 200, (900, 2)).tolist() if pair[0] != pair[1]}
    graph = graph_of(dict.fromkeys(sorted(pairs), 1.0), 200)
    same, again, other, reseeded = (
        find_communities(graph, quality="rb", resolution=1.5, seed=seed, restart=restart)[0].tolist()
        for seed, restart in ((3, 1), (3, 1), (3, 2), (4, 1))
    )
    assert same == again
    assert same != other
    assert same != reseeded


def test_isolated_vertices_are_communities_of_their_own_at_the_end() -> None:
    membership_N, _ = find_communities(cliques(3, 5, isolated=2), quality="rb", resolution=1.5, seed=0, restart=0)
    assert membership_N.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3, 4]


memberships = st.lists(st.integers(0, 4), min_size=2, max_size=30)


@settings(deadline=None)
@given(memberships)
def test_names_follow_size_and_lowest_token(names: list[int]) -> None:
    token_ids_N = np.random.default_rng(0).permutation(len(names)).astype(np.int32)
    named_N = by_size(np.array(names), token_ids_N)
    groups = {name: [int(token_ids_N[i]) for i, n in enumerate(names) if n == name] for name in set(names)}
    ranked = sorted(groups, key=lambda name: (-len(groups[name]), min(groups[name])))
    assert named_N.tolist() == [ranked.index(name) for name in names]


@st.composite
def several(draw: st.DrawFn) -> list[np.ndarray]:
    size = draw(st.integers(2, 20))
    names = st.lists(st.integers(0, 4), min_size=size, max_size=size)
    return [by_size(np.array(draw(names)), np.arange(size, dtype=np.int32)) for _ in range(draw(st.integers(2, 4)))]


@pytest.mark.slow
@settings(deadline=None)
@given(several())
def test_agreement_equals_scikit_learn(found: list[np.ndarray]) -> None:
    expected = [[adjusted_rand_score(one, other) for other in found] for one in found]
    np.testing.assert_allclose(agreement(found), expected, atol=1e-12)


@settings(deadline=None)
@given(several(), st.integers(0, 3))
def test_stability_equals_loops_over_sets(found: list[np.ndarray], choice: int) -> None:
    best = choice % len(found)

    def company(membership_N: np.ndarray, vertex: int) -> set[int]:
        return {other for other, name in enumerate(membership_N) if name == membership_N[vertex]}

    expected = [
        np.mean(
            [
                len(company(found[best], v) & company(other, v)) / len(company(found[best], v) | company(other, v))
                for restart, other in enumerate(found)
                if restart != best
            ]
        )
        for v in range(len(found[0]))
    ]
    np.testing.assert_allclose(stability(found, best), expected)
