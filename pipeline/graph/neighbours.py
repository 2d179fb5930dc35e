"""The graph of nearest keys: a token is linked to the keys that its row scores highest.

Shapes: V vocabulary, K kept keys of a row, N vertices, E edges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import igraph
import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A weighted graph without loops or parallel edges."""

    token_ids_N: Int32Array
    """Token of each vertex, in the order that the partition and the layout go through them."""
    source_E: Int32Array
    """Vertex of each edge's query token; the lower of the two in an undirected graph."""
    target_E: Int32Array
    """Vertex of each edge's key token; the higher of the two in an undirected graph."""
    weight_E: Float32Array
    """Weight of each edge, above 0."""
    directed: bool
    n_short: int
    """Tokens that have fewer neighbours than were asked for, because too few of their kept keys are vertices."""

    @property
    def degree_N(self) -> Int32Array:
        """Edges of each vertex, in and out."""
        ends = np.concatenate([self.source_E, self.target_E])
        return np.bincount(ends, minlength=len(self.token_ids_N)).astype(np.int32)

    @property
    def n_isolated(self) -> int:
        """Vertices without an edge."""
        return int((self.degree_N == 0).sum())

    def sha256(self) -> str:
        """Hash of vertices, edges and weights in their order."""
        digest = hashlib.sha256(repr((len(self.token_ids_N), len(self.source_E), self.directed)).encode())
        for values in (self.token_ids_N, self.source_E, self.target_E, self.weight_E):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def to_igraph(self) -> igraph.Graph:
        """The same graph for igraph, its vertices and edges in the same order."""
        edges = np.stack([self.source_E, self.target_E], axis=1)
        return igraph.Graph(n=len(self.token_ids_N), edges=edges, directed=self.directed)


def vertex_order(token_ids_N: Int32Array, spellings_N: Sequence[bytes | None]) -> Int32Array:
    """Tokens by their bytes, and those without by their ids.

    Leiden and the layout depend on the order of vertices. Ids are an accident of the vocabulary's numbering, bytes are
    not: the same tokens under other ids give the same partition.

    Args:
        token_ids_N: tokens.
        spellings_N: their bytes; None where no tokenizer names the id.

    Returns:
        The token ids in that order.
    """
    named = zip(spellings_N, token_ids_N.tolist(), strict=True)
    ordered = sorted((spelling is None, spelling or b"", token_id) for spelling, token_id in named)
    return np.array([token_id for _, _, token_id in ordered], dtype=np.int32)


def neighbour_graph(
    key_ids_VK: Int32Array,
    vertices_N: Int32Array,
    *,
    neighbours: int,
    symmetrise: str,
    left_out: Int32Array | None = None,
) -> Graph:
    """Link each token to the best keys of its row but itself, as far as they are vertices.

    Only the order of the scores counts. Their size does not: scores may be negative, have no common zero between rows,
    and differ in scale between heads and forms. An undirected edge weighs the share of its two tokens that have the
    other among their neighbours: 1 if both, 1/2 if one, which is the symmetric part (A + A^T) / 2 of the adjacency
    matrix. `mutual` keeps the edges of weight 1; a directed edge weighs 1.

    Args:
        key_ids_VK: kept keys of every token's row, best first; the token itself may stand anywhere among them.
        vertices_N: tokens that become vertices, in the order they are to have.
        neighbours: keys that a token is linked to, at most; fewer where its kept keys hold fewer vertices.
        symmetrise: one of SYMMETRISE.
        left_out: keys that no token is linked to; as vertices they are linked to the keys of their own rows.

    Returns:
        The graph.

    Source:
        von Luxburg, A Tutorial on Spectral Clustering, 2007, section 2.2: k-nearest neighbour graphs, mutual or not.
    """
    n_vocab, n_vertices = len(key_ids_VK), len(vertices_N)
    is_vertex_V = np.zeros(n_vocab, dtype=bool)
    is_vertex_V[vertices_N] = True
    vertex_V = np.zeros(n_vocab, dtype=np.int64)
    vertex_V[vertices_N] = np.arange(n_vertices)

    key_ids_NK = key_ids_VK[vertices_N]
    is_key_V = is_vertex_V.copy()
    if left_out is not None:
        is_key_V[left_out] = False
    allowed_NK = is_key_V[key_ids_NK] & (key_ids_NK != vertices_N[:, None])
    taken_NK = allowed_NK & (np.cumsum(allowed_NK, axis=1) <= neighbours)
    source_L = np.repeat(np.arange(n_vertices), taken_NK.sum(axis=1))
    target_L = vertex_V[key_ids_NK[taken_NK]]
    n_short = int((taken_NK.sum(axis=1) < neighbours).sum())

    if symmetrise == "directed":
        pair_E, weight_E = np.sort(source_L * n_vertices + target_L), np.ones(len(source_L), np.float32)
    else:
        pair_L = np.minimum(source_L, target_L) * n_vertices + np.maximum(source_L, target_L)
        pair_E, links_E = np.unique(pair_L, return_counts=True)
        weight_E = (links_E / 2).astype(np.float32)
        if symmetrise == "mutual":
            pair_E, weight_E = pair_E[links_E == 2], weight_E[links_E == 2]
    return Graph(
        token_ids_N=vertices_N,
        source_E=(pair_E // max(n_vertices, 1)).astype(np.int32),
        target_E=(pair_E % max(n_vertices, 1)).astype(np.int32),
        weight_E=weight_E,
        directed=symmetrise == "directed",
        n_short=n_short,
    )
