"""`submit full-vocab`: one head over the whole vocabulary: top-k keys and self statistics of every token."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qkatlas.cluster.executor import Executor, Grant, Handle
from qkatlas.jobs.full_vocab.shards import full_vocab_shards, shard_files, shards_between
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.settings import require_scoring, require_top_k_fits
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.worker.prepared import prepared_keys
from qkatlas.jobs.worker.tables import self_table, tokens_table, topk_table
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import Part, write_part
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit.projection import HeadInputs, head_inputs, head_weights
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.engine import score_rows


@dataclass(frozen=True, kw_only=True)
class FullVocab:
    """One head over the whole vocabulary."""

    head: str = "L1H5"
    """The head, by layer and place, both from 0."""
    states: str = "mlp"
    """How token states are taken: `mlp`, `mean` or `bos`."""
    scores: str = "attention"
    """Form of the score: `attention` (nats, with biases and scale) or `bilinear` (neither)."""
    top_k: int = 64
    """Keys kept for each query token."""

    def __post_init__(self) -> None:
        Head.parse(self.head)
        require_scoring(self.states, self.scores, self.top_k)

    def require_fits(self, model: Model) -> None:
        """Check the request against the model.

        Raises:
            ValueError: if the head is outside the model or top_k exceeds its vocabulary.
        """
        architecture = model.checkpoint.architecture
        Head.parse(self.head).require_inside(architecture.n_layers, architecture.n_heads)
        require_top_k_fits(self.top_k, architecture.vocab_size)


class FullVocabJob:
    """How `full-vocab` is planned, computed and finished.

    Args:
        spec: what is asked for.
        model: the model.
        shards: pieces to cut the vocabulary into; None = pieces of 4096 tokens.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "full-vocab"

    def __init__(self, spec: FullVocab, model: Model, *, shards: int | None = None) -> None:
        spec.require_fits(model)
        self.spec = spec
        self.model = model
        self._head = Head.parse(spec.head)
        self._shards = full_vocab_shards(self._head, model.checkpoint.architecture.vocab_size, shards)
        self._inputs: HeadInputs | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that change results."""
        return asdict(self.spec)

    def plan(self) -> list[Shard]:
        """Row ranges of nearly equal length that cover the vocabulary; they depend on no machine."""
        return list(self._shards)

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards are this head's, one after the other, from the first token to the last."""
        edges = [0, *(shard.bounds.get("stop", -1) for shard in shards)]
        expected = shards_between(self._head, edges)
        return list(shards) == expected and edges[-1] == self.model.checkpoint.architecture.vocab_size

    def scores_in(self, shard: Shard) -> int:
        """Scores that a shard computes."""
        return (shard.bounds["stop"] - shard.bounds["start"]) * self.model.checkpoint.architecture.vocab_size

    def stages(self, missing: Sequence[Shard]) -> list[list[Shard]]:
        """One stage: no shard needs another."""
        return [list(missing)]

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The shards with what a worker needs for them; queries and keys are computed once and shared."""
        inputs = self.inputs(threads)
        digest = _digest(inputs)
        shared: Handle = executor.put(inputs)
        folder = run.folder
        for shard in stage:
            yield shard, (folder, digest, shared, self.spec.top_k)

    def prepare(self, threads: int, clock: Clock) -> None:
        """Compute the queries and keys, before anything is written.

        Raises:
            ValueError: if they or their scores leave the range of float32.
        """
        self.inputs(threads)
        clock.lap("states, queries and keys")

    def inputs(self, threads: int) -> HeadInputs:
        """Queries and keys of the head for every token, computed once."""
        if self._inputs is None:
            states = self.model.token_states(self.spec.states, layer=self._head.layer, threads=threads)
            weights = head_weights(self.model.checkpoint, self._head, scores=self.spec.scores)
            self._inputs = head_inputs(weights, states.advance_to(self._head.layer), threads=threads)
        return self._inputs

    @staticmethod
    def run_shard(grant: Grant, shard: Shard, folder: Folder, digest: str, inputs: HeadInputs, k: int) -> Receipt:
        """Score one shard's rows and write its parts; runs on a worker.

        Raises:
            OSError: if a part cannot be written.
        """
        bounds = shard.bounds
        rows = slice(bounds["start"], bounds["stop"])
        started = time.perf_counter()
        keys = prepared_keys(digest, inputs.keys_VH, grant.device)
        token_ids_R = np.arange(rows.start, rows.stop, dtype=np.int32)
        scores = score_rows(
            inputs.queries_VH[rows], keys, row_ids_R=token_ids_R, k=k, scale=inputs.scale, threads=grant.cpus
        )
        scored = time.perf_counter()
        topk_file, self_file = shard_files(shard)
        parts = (
            write_part(folder, topk_file, topk_table(token_ids_R, scores)),
            write_part(folder, self_file, self_table(token_ids_R, scores)),
        )
        return Receipt(
            shard=shard.name,
            inputs=digest,
            parts=parts,
            measures={
                "scoring_seconds": round(scored - started, 4),
                "writing_seconds": round(time.perf_counter() - scored, 4),
                "scores": len(token_ids_R) * len(inputs.keys_VH),
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "device": keys.device.type,
                "cpus": grant.cpus,
            },
        )

    def reduce(self, run: Run) -> list[Part]:
        """Write the tables of the whole run."""
        return [run.write_table("tokens.parquet", tokens_table(self.model))]


def _digest(inputs: HeadInputs) -> str:
    digest = hashlib.sha256(repr((inputs.queries_VH.shape, inputs.scale)).encode())
    digest.update(inputs.queries_VH.data)
    digest.update(inputs.keys_VH.data)
    return digest.hexdigest()
