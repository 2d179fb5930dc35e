"""Communities: the Leiden algorithm on a graph, and how far its restarts agree.

Shapes: N vertices, R restarts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import igraph
import leidenalg
import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.graph.kinds import QUALITY
from qkatlas.pipeline.graph.neighbours import Graph
from qkatlas.pipeline.text import streams

_QUALITY: dict[str, Any] = {
    "modularity": leidenalg.ModularityVertexPartition,
    "rb": leidenalg.RBConfigurationVertexPartition,
    "cpm": leidenalg.CPMVertexPartition,
}
assert tuple(_QUALITY) == QUALITY

Int32Array = npt.NDArray[np.int32]
Float64Array = npt.NDArray[np.float64]


def find_communities(
    graph: Graph, *, quality: str, resolution: float | None, seed: int, restart: int
) -> tuple[Int32Array, float]:
    """Divide a graph into communities, once, until an iteration of Leiden improves nothing.

    Args:
        graph: the graph, with an edge at least.
        quality: one of QUALITY.
        resolution: the higher, the smaller the communities; None for modularity, which has none.
        seed: of all restarts.
        restart: number of this one; no restart's draws depend on another's.

    Returns:
        int32 [N], the community of each vertex, named as `by_size` does; and the quality reached. An isolated vertex is
        a community of its own.

    Source:
        Traag, Waltman and van Eck, From Louvain to Leiden: guaranteeing well-connected communities, 2019.
    """
    drawn = streams.RESTARTS.sequence(seed, restart).generate_state(1)[0]
    parameters = {} if resolution is None else {"resolution_parameter": resolution}
    partition = leidenalg.find_partition(
        graph.to_igraph(),
        _QUALITY[quality],
        weights=graph.weight_E.astype(np.float64).tolist(),
        n_iterations=-1,
        seed=int(drawn >> 1),  # leidenalg takes 31 bits
        **parameters,
    )
    return by_size(np.array(partition.membership), graph.token_ids_N), float(partition.quality())


def by_size(membership_N: npt.NDArray[np.integer[Any]], token_ids_N: Int32Array) -> Int32Array:
    """Name communities by descending size, those of equal size by their lowest token id.

    Args:
        membership_N: community of each vertex under any names.
        token_ids_N: token of each vertex.

    Returns:
        int32 [N], from 0.
    """
    _, community_N, sizes = np.unique(membership_N, return_inverse=True, return_counts=True)
    lowest = np.full(len(sizes), np.iinfo(np.int32).max)
    np.minimum.at(lowest, community_N, token_ids_N)
    names = np.empty(len(sizes), np.int32)
    names[np.lexsort((lowest, -sizes))] = np.arange(len(sizes))
    return names[community_N]


def agreement(memberships: Sequence[Int32Array]) -> Float64Array:
    """Adjusted Rand index between any two partitions.

    Args:
        memberships: R partitions of the same vertices.

    Returns:
        float64 [R, R], symmetric, 1 on the diagonal; 1 = the same partition, 0 = what chance gives.

    Source:
        Hubert and Arabie, Comparing partitions, 1985.
    """
    ari_RR = np.eye(len(memberships))
    lists = [membership_N.tolist() for membership_N in memberships]
    for first, one in enumerate(lists):
        for second in range(first):
            same = np.array_equal(memberships[first], memberships[second])  # igraph gives NaN for equal trivial ones
            value = 1.0 if same else igraph.compare_communities(one, lists[second], method="adjusted_rand")
            ari_RR[first, second] = ari_RR[second, first] = value
    return ari_RR


def stability(memberships: Sequence[Int32Array], best: int) -> Float64Array:
    """How far each vertex keeps its company in the other restarts.

    Args:
        memberships: R partitions of the same vertices, R > 1.
        best: number of the one that is kept.

    Returns:
        float64 [N], mean over the other restarts of the Jaccard similarity |A and B| / |A or B| of the vertex's
        community in the best one (A) and there (B), itself included; 1 = always exactly the same vertices.

    Source:
        Hennig, Cluster-wise assessment of cluster stability, 2007, whose clusterwise Jaccard similarity this is, told
        for each member instead of for the cluster.
    """
    own_N = memberships[best]
    own_size_N = np.bincount(own_N)[own_N]
    others = [other_N for restart, other_N in enumerate(memberships) if restart != best]
    total_N = np.zeros(len(own_N))
    for other_N in others:
        pairs_N = own_N.astype(np.int64) * (int(other_N.max()) + 1) + other_N
        _, pair_N, counts = np.unique(pairs_N, return_inverse=True, return_counts=True)
        both_N = counts[pair_N]
        total_N += both_N / (own_size_N + np.bincount(other_N)[other_N] - both_N)
    return total_N / len(others)
