"""`submit communities`: the graph of nearest keys of a full-vocab run, its communities and its map."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Executor, Grant
from qkatlas.jobs.inputs.source import SourceRun
from qkatlas.jobs.loop.clock import Clock
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import Part, write_part
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import communities as schemas_graph
from qkatlas.pipeline.graph.communities import QUALITY, agreement, find_communities, stability
from qkatlas.pipeline.graph.layout import map_layout
from qkatlas.pipeline.graph.neighbours import SYMMETRISE, Graph, neighbour_graph, vertex_order

_DEFAULT_RESOLUTION = {"rb": 1.5}


@dataclass(frozen=True, kw_only=True)
class Communities:
    """The communities of one full-vocab run."""

    source: str
    """Id of the full-vocab run."""
    neighbours: int = 8
    """Best keys that a token is linked to, itself left out."""
    symmetrise: str = "union"
    """Which links make an edge: `union` either way, `mutual` both ways, `directed` each as it is."""
    quality: str = "rb"
    """What Leiden maximises: `modularity`, `rb` (Reichardt and Bornholdt's configuration model) or `cpm`."""
    resolution: float | None = None
    """The higher, the smaller the communities; 1.5 for `rb` if not given; `modularity` has none."""
    restarts: int = 10
    """Times that Leiden is run; the best quality is kept."""
    seed: int = 0
    """Seed of the restarts and of the map."""

    def __post_init__(self) -> None:
        for name, value, known in (("symmetrise", self.symmetrise, SYMMETRISE), ("quality", self.quality, QUALITY)):
            if value not in known:
                raise ValueError(f"--{name} {value!r} is unknown; choose one of {', '.join(known)}")
        for name, number, least in (("neighbours", self.neighbours, 1), ("restarts", self.restarts, 1)):
            if number < least:
                raise ValueError(f"--{name} {number} is below {least}; choose {least} or more")
        if self.seed < 0:
            raise ValueError(f"--seed {self.seed} is negative; choose 0 or more")
        if self.quality == "modularity":
            if self.resolution is not None:
                raise ValueError(f"--resolution {self.resolution} does not fit modularity; choose --quality rb or cpm")
            return
        if self.resolution is None:
            if self.quality not in _DEFAULT_RESOLUTION:
                raise ValueError(f"--quality {self.quality} needs --resolution, a density of edges such as 0.01")
            object.__setattr__(self, "resolution", _DEFAULT_RESOLUTION[self.quality])
        elif not 0 < self.resolution < float("inf"):
            raise ValueError(f"--resolution {self.resolution} is no number above 0; choose one such as 1.5")


class CommunitiesJob:
    """How `communities` is planned, computed and finished: each restart of Leiden is a shard.

    Args:
        spec: what is asked for.
        source: the run it names.
        token_ids: int32, the tokens that become vertices, ascending; None = the whole vocabulary.

    Raises:
        ValueError: if the request does not fit the run.
    """

    name = "communities"

    def __init__(self, spec: Communities, source: SourceRun, token_ids: np.ndarray | None = None) -> None:
        vocab_size = len(source.tokens)
        if vocab_size < 2:
            raise ValueError(
                f"run {source.run.folder.name} has a vocabulary of {vocab_size} token, which has no neighbours; "
                "name a run of another model"
            )
        # One of the kept keys may be the token itself.
        if spec.neighbours >= source.top_k:
            remedies = [f"choose at most {source.top_k - 1}"] if source.top_k > 1 else []
            if source.top_k < vocab_size:
                remedies.append(f"submit full-vocab with --top-k {min(spec.neighbours + 1, vocab_size)}")
            raise ValueError(
                f"--neighbours {spec.neighbours} is too many for run {source.run.folder.name}, whose tokens keep "
                f"{source.top_k} each, perhaps the token itself among them; {', or '.join(remedies)}"
            )
        self.spec = spec
        self.model = source
        self._token_ids = np.arange(vocab_size, dtype=np.int32) if token_ids is None else token_ids
        self._subset = None if token_ids is None else hashlib.sha256(token_ids.tobytes()).hexdigest()
        self._graph: Graph | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that change results; a subset of the vocabulary by its size and hash."""
        subset = None if self._subset is None else {"count": len(self._token_ids), "sha256": self._subset}
        return {**asdict(self.spec), "tokens": subset}

    def plan(self) -> list[Shard]:
        """One shard a restart."""
        return [Shard(f"restart-{restart:04d}", "graph", {"restart": restart}) for restart in range(self.spec.restarts)]

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards are all restarts."""
        return list(shards) == self.plan()

    def scores_in(self, shard: Shard) -> int:
        """None: the scores are the source run's."""
        return 0

    def prepare(self, threads: int, clock: Clock) -> None:
        """Build the graph, before anything is written.

        Raises:
            ValueError: if it has no edge.
        """
        graph = self.graph()
        if not len(graph.source_E):
            raise ValueError(
                f"the graph of {len(graph.token_ids_N)} tokens has no edge; choose more --neighbours or tokens, "
                "or --symmetrise union"
            )
        clock.lap("graph")

    def graph(self) -> Graph:
        """The graph, built once; its vertices are in an order that token ids have no part in."""
        if self._graph is None:
            spellings = self.model.tokens["bytes"].take(self._token_ids).to_pylist()
            self._graph = neighbour_graph(
                self.model.key_ids(),
                vertex_order(self._token_ids, spellings),
                neighbours=self.spec.neighbours,
                symmetrise=self.spec.symmetrise,
            )
        return self._graph

    def stages(self, missing: Sequence[Shard]) -> list[list[Shard]]:
        """One stage: no restart needs another."""
        return [list(missing)]

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The restarts with the graph, which they share."""
        graph = self.graph()
        digest = graph.sha256()
        shared = executor.put(graph)
        folder = run.folder
        for shard in stage:
            yield shard, (folder, digest, shared, self.spec)

    @staticmethod
    def run_shard(grant: Grant, shard: Shard, folder: Folder, digest: str, graph: Graph, spec: Communities) -> Receipt:
        """Run Leiden once and write the partition; runs on a worker.

        Raises:
            OSError: if it cannot be written.
        """
        started = time.perf_counter()
        restart = shard.bounds["restart"]
        community_N, quality = find_communities(
            graph, quality=spec.quality, resolution=spec.resolution, seed=spec.seed, restart=restart
        )
        order_N = np.argsort(graph.token_ids_N)
        table = pa.Table.from_arrays(
            [pa.array(graph.token_ids_N[order_N]), pa.array(community_N[order_N])], schema=schemas_graph.MEMBERSHIPS
        )
        n_communities = int((np.bincount(community_N) > 1).sum())
        return Receipt(
            shard=shard.name,
            inputs=digest,
            parts=(write_part(folder, f"memberships/restart={restart}/part-00000.parquet", table),),
            measures={
                "seconds": round(time.perf_counter() - started, 4),
                "tokens": len(graph.token_ids_N),
                "edges": len(graph.source_E),
                "isolated_tokens": graph.n_isolated,
                "tokens_short_of_neighbours": graph.n_short,
                "communities": n_communities,
                "quality": quality,
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "device": "cpu",
                "cpus": 1,
            },
            summary={"quality": quality, "n_communities": n_communities},
        )

    def reduce(self, run: Run) -> list[Part]:
        """Write the graph, the best partition with its map, and how the restarts compare."""
        graph, committed = self.graph(), run.receipts()
        receipts = [committed[shard.name] for shard in self.plan()]
        order_N = np.argsort(graph.token_ids_N)
        place_N = np.argsort(order_N)  # rows are by token id, vertices are not
        memberships = [read_parts(run, receipt.parts)["community"].to_numpy()[place_N] for receipt in receipts]
        qualities = [receipt.summary["quality"] for receipt in receipts]
        best = max(range(len(receipts)), key=lambda restart: (qualities[restart], -restart))
        several = len(receipts) > 1
        steady = pa.nulls(len(order_N), pa.float32())
        if several:
            steady = pa.array(stability(memberships, best)[order_N].astype(np.float32))
        map_N2 = map_layout(graph, memberships[best], seed=self.spec.seed)
        communities = [
            pa.array(graph.token_ids_N[order_N]),
            pa.array(memberships[best][order_N]),
            pa.array(map_N2[order_N, 0]),
            pa.array(map_N2[order_N, 1]),
            pa.array(graph.degree_N[order_N]),
            steady,
        ]
        ari_RR = agreement(memberships)
        restarts = [
            {
                "restart": restart,
                "quality": qualities[restart],
                "is_best": restart == best,
                "n_communities": receipt.summary["n_communities"],
                "ari_best": ari_RR[restart, best],
                "ari_mean": (ari_RR[restart].sum() - 1) / (len(receipts) - 1) if several else None,
            }
            for restart, receipt in enumerate(receipts)
        ]
        return [
            run.write_table("edges.parquet", _edges_table(graph)),
            run.write_table("communities.parquet", pa.Table.from_arrays(communities, schema=schemas_graph.COMMUNITIES)),
            run.write_table("restarts.parquet", pa.Table.from_pylist(restarts, schema=schemas_graph.RESTARTS)),
        ]


def _edges_table(graph: Graph) -> pa.Table:
    """The edges by token ids, in ascending order."""
    source_E, target_E = graph.token_ids_N[graph.source_E], graph.token_ids_N[graph.target_E]
    if not graph.directed:
        source_E, target_E = np.minimum(source_E, target_E), np.maximum(source_E, target_E)
    order_E = np.lexsort((target_E, source_E))
    columns = [pa.array(values[order_E]) for values in (source_E, target_E, graph.weight_E)]
    return pa.Table.from_arrays(columns, schema=schemas_graph.EDGES)
