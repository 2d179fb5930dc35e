"""`submit similarity`: score minus self score against cosine similarity, over all pairs of tokens."""

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
from qkatlas.jobs.full_vocab.shards import ROWS_PER_SHARD
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.settings import require_scoring
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.worker.tables import tokens_table
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import Part, write_part
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import similarity as schemas
from qkatlas.pipeline.circuit.kin import unit_states
from qkatlas.pipeline.circuit.projection import HeadInputs, head_inputs, head_weights
from qkatlas.pipeline.circuit.similarity import SCORE_BINS, PairSums, ScoreRange, curve, pair_sums
from qkatlas.pipeline.models.head import Head

_MOST_BINS = 2000


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """The similarity curve of one head."""

    head: str = "L1H5"
    """The head, by layer and place, both from 0."""
    states: str = "mlp"
    """How token states are taken: `mlp`, `mean` or `bos`."""
    scores: str = "attention"
    """Form of the score: `attention` (nats, with biases and scale) or `bilinear` (neither)."""
    bins: int = 200
    """Bins that cut the cosines from -1 to 1 evenly."""
    tokens: tuple[int, ...] | None = None
    """Tokens whose pairs are taken; None = the whole vocabulary."""

    def __post_init__(self) -> None:
        Head.parse(self.head)
        require_scoring(self.states, self.scores, top_k=1)
        if not 1 <= self.bins <= _MOST_BINS:
            raise ValueError(f"--bins {self.bins} is impossible; choose from 1 to {_MOST_BINS}")


class SimilarityJob:
    """How `similarity` is planned, computed and finished.

    Args:
        spec: what is asked for.
        model: the model.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "similarity"

    def __init__(self, spec: Similarity, model: Model) -> None:
        shape = model.checkpoint.architecture
        self.spec = spec
        self.model = model
        self._head = Head.parse(spec.head)
        self._head.require_inside(shape.n_layers, shape.n_heads)
        self._count = shape.vocab_size if spec.tokens is None else len(spec.tokens)
        self._inputs: tuple[np.ndarray, HeadInputs, ScoreRange] | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that change results; a subset counts by its tokens, in their order."""
        settings = asdict(self.spec)
        if self.spec.tokens is not None:
            digest = hashlib.sha256(np.array(self.spec.tokens, "<i4").tobytes()).hexdigest()
            settings["tokens"] = {"count": self._count, "sha256": digest}
        return settings

    def plan(self) -> list[Shard]:
        """Fixed ranges of query tokens."""
        starts = range(0, self._count, ROWS_PER_SHARD)
        return [
            Shard(
                f"{self._head}-{start:06d}",
                self.spec.head,
                {"part": part, "start": start, "stop": min(start + ROWS_PER_SHARD, self._count)},
            )
            for part, start in enumerate(starts)
        ]

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards are the plan, which only the number of tokens decides."""
        return list(shards) == self.plan()

    def scores_in(self, shard: Shard) -> int:
        """Pairs of a shard."""
        return (shard.bounds["stop"] - shard.bounds["start"]) * self._count

    def prepare(self, threads: int, clock: Clock) -> None:
        """Compute states, queries and keys, before anything is written.

        Raises:
            ValueError: if queries, keys or their scores leave the range of float32.
        """
        self._prepared(threads)
        clock.lap("states, queries and keys")

    def _prepared(self, threads: int) -> tuple[np.ndarray, HeadInputs, ScoreRange]:
        """Unit states, queries and keys of the tokens, and the range of their differences; computed once."""
        if self._inputs is None:
            layer = self._head.layer
            states_VD = self.model.token_states(self.spec.states, layer=layer, threads=threads).advance_to(layer)
            if self.spec.tokens is not None:
                states_VD = states_VD[np.array(self.spec.tokens)]
            weights = head_weights(self.model.checkpoint, self._head, scores=self.spec.scores)
            inputs = head_inputs(weights, states_VD, threads=threads)
            self._inputs = unit_states(states_VD, threads=threads), inputs, ScoreRange.of(inputs)
        return self._inputs

    def stages(self, missing: Sequence[Shard]) -> list[list[Shard]]:
        """One stage: no shard needs another."""
        return [list(missing)]

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The shards with what a worker needs for them; states, queries and keys are shared."""
        unit_VD, inputs, scores = self._prepared(threads)
        digest = hashlib.sha256(repr((inputs.scale, scores)).encode())
        for values in (unit_VD, inputs.queries_VH, inputs.keys_VH):
            digest.update(values.data)
        shared = executor.put((unit_VD, inputs, scores))
        for shard in stage:
            yield shard, (run.folder, digest.hexdigest(), shared, self.spec.bins)

    @staticmethod
    def run_shard(
        grant: Grant,
        shard: Shard,
        folder: Folder,
        digest: str,
        shared: tuple[np.ndarray, HeadInputs, ScoreRange],
        bins: int,
    ) -> Receipt:
        """Sum up one shard's pairs and write their histogram; runs on a worker, on CPUs.

        Raises:
            OSError: if a part cannot be written.
        """
        started = time.perf_counter()
        unit_VD, inputs, scores = shared
        rows = slice(shard.bounds["start"], shard.bounds["stop"])
        sums = pair_sums(unit_VD, inputs, rows, scores, bins, threads=grant.cpus)
        cosine_bin, score_bin = np.nonzero(sums.counts_CB)
        columns = [
            pa.array(cosine_bin.astype(np.int32)),
            pa.array(score_bin.astype(np.int32)),
            pa.array(scores.low + (score_bin + 0.5) * scores.step),
            pa.array(sums.counts_CB[cosine_bin, score_bin]),
        ]
        table = pa.Table.from_arrays(columns, schema=schemas.HISTOGRAM)
        part = write_part(folder, f"histogram/part-{shard.bounds['part']:05d}.parquet", table)
        return Receipt(
            shard=shard.name,
            inputs=digest,
            parts=(part,),
            measures={
                "seconds": round(time.perf_counter() - started, 4),
                "pairs": int(sums.counts_CB.sum()),
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "device": "cpu",
                "cpus": grant.cpus,
            },
            summary={
                "sums": sums.sums_C.tolist(),
                "squares": sums.squares_C.tolist(),
                "self_pairs": sums.self_pairs_C.tolist(),
                "score_low": scores.low,
                "score_step": scores.step,
            },
        )

    def reduce(self, run: Run) -> list[Part]:
        """Write the tables of the whole run."""
        receipts = run.receipts()
        mine = [receipts[shard.name] for shard in self.plan()]
        cells = read_parts(run, [part for receipt in mine for part in receipt.parts])
        counts_CB = np.zeros((self.spec.bins, SCORE_BINS), np.int64)
        np.add.at(counts_CB, (cells["cosine_bin"].to_numpy(), cells["score_bin"].to_numpy()), cells["count"].to_numpy())
        summaries = [receipt.summary for receipt in mine]
        total = PairSums(
            counts_CB=counts_CB,
            sums_C=np.sum([summary["sums"] for summary in summaries], axis=0),
            squares_C=np.sum([summary["squares"] for summary in summaries], axis=0),
            self_pairs_C=np.sum([summary["self_pairs"] for summary in summaries], axis=0),
        )
        scores = ScoreRange(low=summaries[0]["score_low"], step=summaries[0]["score_step"])
        tables = [
            run.write_table("tokens.parquet", tokens_table(self.model)),
            run.write_table("similarity.parquet", _similarity_table(total, scores)),
        ]
        if self.spec.tokens is not None:
            subset = pa.Table.from_arrays([pa.array(self.spec.tokens, pa.int32())], schema=schemas.SUBSET)
            tables.append(run.write_table("subset.parquet", subset))
        return tables


def _similarity_table(total: PairSums, scores: ScoreRange) -> pa.Table:
    found = curve(total, scores)
    numbers = [found.mean_C, found.std_C, *found.quartiles_3C]
    columns = [
        pa.array(found.edges[:-1]),
        pa.array(found.edges[1:]),
        pa.array(found.counts_C),
        pa.array(found.self_pairs_C),
        *(pa.array(values, mask=np.isnan(values)) for values in numbers),
        pa.array(np.full(len(found.counts_C), found.quartile_error)),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.SIMILARITY)
