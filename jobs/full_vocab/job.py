"""How `full-vocab` is planned, computed and finished."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table as Printed

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.full_vocab.answer import top_attended
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.form import require_scores
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.offset import fitted_offset, with_offset
from qkatlas.jobs.inputs.opening import ModelJob
from qkatlas.jobs.inputs.settings import require_top_k_fits
from qkatlas.jobs.loop.step import AnyStep, Context, Produced, Step
from qkatlas.jobs.worker.prepared import Rows, prepared_keys
from qkatlas.jobs.worker.ranges import row_shards, row_shards_between
from qkatlas.jobs.worker.tables import SELF, TOKENS, TOPK, self_table, tokens_table, topk_table
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit.projection import HeadInputs, head_inputs, head_weights
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.engine import score_rows


class FullVocabJob(ModelJob[FullVocab]):
    """Rows of the vocabulary, a range a shard.

    Args:
        spec: what is asked for.
        model: the model.

    Raises:
        ValueError: if the head is outside the model, there are fewer tokens than keys or shards are asked for, or the
            model cannot give these states.
    """

    name = "full-vocab"
    tables = (TOPK, SELF, TOKENS)
    shows = ("topk", "self", "tokens")
    look = ("self", '.nlargest(10, "self_gap")')

    def __init__(self, spec: FullVocab, model: Model) -> None:
        super().__init__(spec, model)
        shape = model.checkpoint.architecture
        self._head = Head.parse(spec.head)
        self._head.require_inside(shape.n_layers, shape.n_heads)
        require_top_k_fits(spec.top_k, shape.vocab_size)
        self._offset = fitted_offset(spec.offset, shape, [self._head.layer])
        self._states = ChosenStates.fitted(spec, model)
        require_scores(shape, spec.scores)
        self._shards = row_shards(self._head, shape.vocab_size, spec.shards)
        self._inputs: HeadInputs | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that change results; shards do not."""
        settings = asdict(self.spec)
        del settings["shards"]
        return with_offset(self._states.within(settings), self._offset)

    def steps(self) -> Sequence[AnyStep]:
        """One step: row ranges of nearly equal length that cover the vocabulary."""
        return [
            Step(
                kind="rows",
                shards=self._shards,
                share=lambda context: Rows.of(self.inputs(context.threads)),
                each=lambda shard: self.spec.top_k,
                compute=score_shard,
                preparing="states, queries and keys",
            )
        ]

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards are this head's, one after the other, from the first token to the last."""
        edges = [0, *(shard.bounds.get("stop", -1) for shard in shards)]
        expected = row_shards_between(self._head, edges)
        return list(shards) == expected and edges[-1] == self.model.checkpoint.architecture.vocab_size

    def scores_in(self, shard: Shard) -> int:
        """Scores that a shard computes."""
        return (shard.bounds["stop"] - shard.bounds["start"]) * self.model.checkpoint.architecture.vocab_size

    def prepare(self, context: Context) -> None:
        """Compute the queries and keys, before anything is written.

        Raises:
            ValueError: if they or their scores leave the range of float32.
        """
        self.inputs(context.threads)
        context.clock.lap("states, queries and keys")

    def inputs(self, threads: int) -> HeadInputs:
        """Queries and keys of the head for every token, computed once."""
        if self._inputs is None:
            states = self._states.begin(self.model, layer=self._head.layer, threads=threads)
            weights = head_weights(self.model.checkpoint, self._head, scores=self.spec.scores)
            self._inputs = head_inputs(
                weights, states.advance_to(self._head.layer), offset=self._offset, threads=threads
            )
        return self._inputs

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens."""
        return {"tokens": tokens_table(self.model)}

    def answer(self, run: Run) -> Printed:
        """What some well-known words attend to."""
        return top_attended(run, self.model)


def score_shard(grant: Grant, shard: Shard, rows: Rows, k: int) -> Produced:
    """Score one range of rows; runs on a worker.

    Args:
        grant: what the worker may use.
        shard: the range.
        rows: queries and keys of the whole vocabulary.
        k: keys kept for each.
    """
    started = time.perf_counter()
    inputs = rows.inputs
    keys = prepared_keys(rows.made_from, inputs.keys_VH, grant.device)
    token_ids_R = np.arange(shard.rows.start, shard.rows.stop, dtype=np.int32)
    scores = score_rows(
        inputs.queries_VH[shard.rows], keys, row_ids_R=token_ids_R, k=k, scale=inputs.scale, threads=grant.cpus
    )
    measures = {
        "scoring_seconds": round(time.perf_counter() - started, 4),
        "scores": len(token_ids_R) * len(inputs.keys_VH),
    }
    return Produced({"topk": topk_table(token_ids_R, scores), "self": self_table(token_ids_R, scores)}, {}, measures)
