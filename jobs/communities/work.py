"""What a communities run computes on its workers: one search of Leiden, from a graph that all of them share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import communities as schemas_graph
from qkatlas.pipeline.graph.communities import find_communities
from qkatlas.pipeline.graph.neighbours import Graph


@dataclass(frozen=True, kw_only=True)
class Search:
    """What all restarts search.

    Attributes:
        graph: the graph.
        quality: what is maximised.
        resolution: the higher, the smaller the communities; None for modularity.
        seed: of all restarts.
    """

    graph: Graph
    quality: str
    resolution: float | None
    seed: int

    def identity(self) -> str:
        """SHA-256 of the graph; the rest is the same in all of a run."""
        return self.graph.sha256()


def search(grant: Grant, shard: Shard, shared: Search, restart: int) -> Produced:
    """Run Leiden once; runs on a worker.

    Args:
        grant: what the worker may use.
        shard: the restart.
        shared: what it searches.
        restart: number of the restart.
    """
    graph = shared.graph
    community_N, quality = find_communities(
        graph, quality=shared.quality, resolution=shared.resolution, seed=shared.seed, restart=restart
    )
    order_N = np.argsort(graph.token_ids_N)
    table = pa.Table.from_arrays(
        [pa.array(graph.token_ids_N[order_N]), pa.array(community_N[order_N])], schema=schemas_graph.MEMBERSHIPS
    )
    summary = {"quality": quality, "n_communities": int((np.bincount(community_N) > 1).sum())}
    measures = {
        "tokens": len(graph.token_ids_N),
        "edges": len(graph.source_E),
        "isolated_tokens": graph.n_isolated,
        "tokens_short_of_neighbours": graph.n_short,
        "communities": summary["n_communities"],
        "quality": quality,
        "device": "cpu",
    }
    return Produced({"memberships": table}, summary, measures)
