"""How `communities` is planned, computed and finished: the graph of nearest keys, its communities and its map.

Shapes: N vertices, E edges, R restarts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
from rich.console import RenderableType

from qkatlas.jobs.communities.answer import closing
from qkatlas.jobs.communities.graph_file import require_replaceable, write_graphml
from qkatlas.jobs.communities.spec import Communities
from qkatlas.jobs.communities.work import Search, search
from qkatlas.jobs.inputs.hubs import HUBS, hubs_table
from qkatlas.jobs.inputs.source import SourceRun
from qkatlas.jobs.loop.job import Host, Job
from qkatlas.jobs.loop.step import AnyStep, Context, Step
from qkatlas.jobs.loop.table import Table
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import communities as schemas_graph
from qkatlas.pipeline.circuit.hubs import Hubs
from qkatlas.pipeline.graph.communities import agreement, stability
from qkatlas.pipeline.graph.layout import map_layout
from qkatlas.pipeline.graph.neighbours import Graph, neighbour_graph, vertex_order

EDGES = Table(name="edges", rows="one row an edge", schema=schemas_graph.EDGES)
COMMUNITIES = Table(name="communities", rows="one row a token", schema=schemas_graph.COMMUNITIES)
RESTARTS = Table(name="restarts", rows="one row a restart", schema=schemas_graph.RESTARTS)
MEMBERSHIPS = Table(
    name="memberships", rows="one row a token", schema=schemas_graph.MEMBERSHIPS,
    file="memberships/restart={restart}/part-{part:05d}.parquet", shown={"restart": "N"},
)  # fmt: skip


class CommunitiesJob(Job[Communities]):
    """Restarts of Leiden on one graph, each a shard.

    Args:
        spec: what is asked for.
        source: the run it names.

    Raises:
        ValueError: if the request does not fit the run.
    """

    name = "communities"
    tables = (COMMUNITIES, EDGES, RESTARTS, MEMBERSHIPS, HUBS)
    shows = ("communities", "edges", "restarts", "memberships", "hubs")
    look = ("communities.parquet", '.groupby("community").stability.describe()')
    opened = "checking the source run"
    threads = 1

    def __init__(self, spec: Communities, source: SourceRun) -> None:
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
        self._source = source
        self._token_ids = np.arange(vocab_size, dtype=np.int32)
        self._chosen = spec.tokens()
        if self._chosen is not None:
            self._chosen.require_inside(vocab_size)
            self._token_ids = np.array(sorted(self._chosen.token_ids), np.int32)
        self._graph: Graph | None = None

    @classmethod
    def open(cls, spec: Communities, host: Host) -> Self:
        """Find the run in the folder of all runs, and check every file of it.

        Raises:
            ValueError: if there is no such run, it is damaged, the request does not fit it, or the graph cannot be
                exported.
        """
        if spec.export is not None:
            require_replaceable(spec.export)
        return cls(spec, SourceRun.open(open_folder(host.request.out), spec.run))

    @property
    def model(self) -> SourceRun:
        """The run that stands for its model."""
        return self._source

    def settings(self) -> dict[str, Any]:
        """The settings that change results; a subset of the vocabulary by its size and hash."""
        spec, tokens = self.spec, None
        if self._chosen is not None:
            digest = hashlib.sha256(self._token_ids.tobytes()).hexdigest()
            tokens = {"count": len(self._token_ids), "sha256": digest}
        return {
            "source": self._source.run_id,
            "neighbours": spec.neighbours,
            "symmetrise": spec.symmetrise,
            "quality": spec.quality,
            "resolution": spec.resolution,
            "restarts": spec.restarts,
            "seed": spec.seed,
            "tokens": tokens,
            **({} if spec.exclude_hubs is None else {"exclude_hubs": spec.exclude_hubs}),
        }

    def notes(self) -> Iterable[str]:
        """Whether the counts may be of another tokenizer."""
        texts = None if self._chosen is None else self._source.texts()
        if self._chosen is not None and texts is not None and (warning := self._chosen.mismatch(texts)):
            yield warning

    def steps(self) -> Sequence[AnyStep]:
        """One step: no restart needs another."""
        return [
            Step(
                kind="restart",
                shards=[
                    Shard(f"restart-{restart:04d}", "graph", {"restart": restart}, "restart")
                    for restart in range(self.spec.restarts)
                ],
                share=lambda context: self._search(),
                each=lambda shard: shard.bounds["restart"],
                compute=search,
                preparing="graph",
            )
        ]

    def prepare(self, context: Context) -> None:
        """Build the graph, before anything is written.

        Raises:
            ValueError: if it has no edge, or the run kept too few keys to leave hubs out.
        """
        if self.spec.exclude_hubs is not None:
            self._require_enough_keys(len(self._hubs().ids_N))
        graph = self.graph()
        if not len(graph.source_E):
            raise ValueError(
                f"the graph of {len(graph.token_ids_N)} tokens has no edge; choose more --neighbours or tokens, "
                "or --symmetrise union"
            )
        context.clock.lap("graph")

    def _require_enough_keys(self, hubs: int) -> None:
        needed, source = self.spec.neighbours + hubs + 1, self._source
        if needed > min(source.top_k, len(source.tokens)):
            remedy = f"submit full-vocab with --top-k {needed}" if needed <= len(source.tokens) else "choose fewer"
            raise ValueError(
                f"--neighbours {self.spec.neighbours} is too many beside the {hubs} keys that --exclude-hubs "
                f"{self.spec.exclude_hubs:g} leaves out of run {source.run.folder.name}, whose tokens keep "
                f"{source.top_k} each, perhaps the token itself among them; {remedy}"
            )

    def _hubs(self) -> Hubs:
        """The keys that are left out: those of the best key of every row that the run kept."""
        assert self.spec.exclude_hubs is not None, "none are otherwise"
        return Hubs.among(self._source.key_ids()[:, 0], self.spec.exclude_hubs)

    def graph(self) -> Graph:
        """The graph, built once; its vertices are in an order that token ids have no part in."""
        if self._graph is None:
            spellings = self._source.tokens["bytes"].take(self._token_ids).to_pylist()
            self._graph = neighbour_graph(
                self._source.key_ids(),
                vertex_order(self._token_ids, spellings),
                neighbours=self.spec.neighbours,
                symmetrise=self.spec.symmetrise,
                left_out=None if self.spec.exclude_hubs is None else self._hubs().ids_N,
            )
        return self._graph

    def _search(self) -> Search:
        spec = self.spec
        return Search(graph=self.graph(), quality=spec.quality, resolution=spec.resolution, seed=spec.seed)

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The graph, the best partition with its map, and how the restarts compare."""
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
        hubs = {}
        if self.spec.exclude_hubs is not None:
            texts = self._source.tokens["text"].to_pylist()
            hubs = {"hubs": hubs_table({self._source.head: self._hubs()}, texts)}
        return {
            **hubs,
            "edges": _edges_table(graph),
            "communities": pa.Table.from_arrays(communities, schema=schemas_graph.COMMUNITIES),
            "restarts": pa.Table.from_pylist(restarts, schema=schemas_graph.RESTARTS),
        }

    def answer(self, run: Run) -> RenderableType:
        """The largest communities, and the keys that were left out."""
        return closing(run, self._source, self.spec.exclude_hubs)

    def finished(self, run: Run) -> None:
        """Export the graph, where that was asked for.

        Raises:
            ValueError: if the file cannot be written.
        """
        if self.spec.export is not None:
            write_graphml(self.spec.export, run, self._source)


def _edges_table(graph: Graph) -> pa.Table:
    """The edges by token ids, in ascending order."""
    source_E, target_E = graph.token_ids_N[graph.source_E], graph.token_ids_N[graph.target_E]
    if not graph.directed:
        source_E, target_E = np.minimum(source_E, target_E), np.maximum(source_E, target_E)
    order_E = np.lexsort((target_E, source_E))
    columns = [pa.array(values[order_E]) for values in (source_E, target_E, graph.weight_E)]
    return pa.Table.from_arrays(columns, schema=schemas_graph.EDGES)
