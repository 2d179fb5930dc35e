"""The graph of nearest keys against loops over sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkatlas.pipeline.graph.kinds import SYMMETRISE
from qkatlas.pipeline.graph.neighbours import Graph, neighbour_graph, vertex_order

Edges = dict[tuple[int, int], float]


def by_loops(key_ids: list[list[int]], vertices: list[int], neighbours: int, symmetrise: str) -> tuple[Edges, int]:
    """Edges by token ids, and tokens short of neighbours."""
    links = {t: [u for u in key_ids[t] if u != t and u in vertices][:neighbours] for t in vertices}
    n_short = sum(len(found) < neighbours for found in links.values())
    edges: Edges = {}
    for t in vertices:
        for u in links[t]:
            back = t in links[u]
            if symmetrise == "directed":
                edges[t, u] = 1.0
            elif back or symmetrise == "union":
                edges[min(t, u), max(t, u)] = 1.0 if back else 0.5
    return edges, n_short


def edges_of(graph: Graph) -> Edges:
    edges: Edges = {}
    for source, target, weight in zip(graph.source_E, graph.target_E, graph.weight_E, strict=True):
        ends = int(graph.token_ids_N[source]), int(graph.token_ids_N[target])
        edges[ends if graph.directed else (min(ends), max(ends))] = float(weight)
    assert len(edges) == len(graph.weight_E), "an edge stands twice"
    return edges


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Kept keys of a small vocabulary, some of its tokens in some order, and neighbours."""
    size = draw(st.integers(2, 12))
    kept = draw(st.integers(2, size))
    key_ids = [draw(st.permutations(range(size)))[:kept] for _ in range(size)]
    vertices = draw(st.permutations(range(size)))[: draw(st.integers(1, size))]
    return np.array(key_ids, np.int32), np.array(vertices, np.int32), draw(st.integers(1, kept - 1))


@pytest.mark.parametrize("symmetrise", SYMMETRISE)
@settings(deadline=None, max_examples=60)
@given(rows())
def test_edges_equal_loops_over_sets(symmetrise: str, given_rows: tuple[np.ndarray, np.ndarray, int]) -> None:
    key_ids_VK, vertices_N, neighbours = given_rows
    graph = neighbour_graph(key_ids_VK, vertices_N, neighbours=neighbours, symmetrise=symmetrise)
    edges, n_short = by_loops(key_ids_VK.tolist(), vertices_N.tolist(), neighbours, symmetrise)
    assert edges_of(graph) == edges
    assert graph.n_short == n_short
    ends = [token for pair in edges for token in pair]
    assert graph.degree_N.tolist() == [ends.count(token) for token in vertices_N.tolist()]
    assert graph.n_isolated == sum(token not in ends for token in vertices_N.tolist())
    assert (graph.weight_E > 0).all()
    stored = graph.to_igraph()
    assert stored.degree() == graph.degree_N.tolist()
    assert stored.is_directed() == (symmetrise == "directed")


def test_the_token_itself_is_left_out_wherever_it_stands() -> None:
    key_ids_VK = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]], np.int32)
    graph = neighbour_graph(key_ids_VK, np.arange(3, dtype=np.int32), neighbours=2, symmetrise="directed")
    assert edges_of(graph) == dict.fromkeys([(0, 1), (0, 2), (1, 2), (1, 0), (2, 1), (2, 0)], 1.0)
    assert graph.n_short == 0


def test_vertices_are_ordered_by_bytes_and_not_by_ids() -> None:
    spellings = [b"b", None, b"a", b"", None]
    assert vertex_order(np.array([4, 9, 7, 5, 2], np.int32), spellings).tolist() == [5, 7, 4, 2, 9]


@settings(deadline=None, max_examples=40)
@given(rows(), st.randoms(use_true_random=False))
def test_other_ids_give_the_same_graph_in_the_same_order(
    given_rows: tuple[np.ndarray, np.ndarray, int], shuffler: object
) -> None:
    key_ids_VK, vertices_N, neighbours = given_rows
    size = len(key_ids_VK)
    new_V = np.array(sorted(range(size), key=lambda _: shuffler.random()), np.int32)  # type: ignore[attr-defined]
    spellings_V = [f"token {token}".encode() for token in range(size)]
    moved_VK = np.empty_like(key_ids_VK)
    moved_VK[new_V] = new_V[key_ids_VK]
    one, other = (
        neighbour_graph(keys, vertex_order(ids, spellings), neighbours=neighbours, symmetrise="union")
        for keys, ids, spellings in (
            (key_ids_VK, vertices_N, [spellings_V[token] for token in vertices_N]),
            (moved_VK, np.sort(new_V[vertices_N]), [spellings_V[int(np.flatnonzero(new_V == token)[0])]
                                                   for token in np.sort(new_V[vertices_N])]),
        )
    )  # fmt: skip
    assert other.token_ids_N.tolist() == new_V[one.token_ids_N].tolist()
    for name in ("source_E", "target_E", "weight_E"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
