"""How `full-vocab` is planned, computed and finished."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table as Printed

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.full_vocab.answer import most_promoted, top_attended
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.circuit import attends, require_written, with_circuit, writes
from qkatlas.jobs.inputs.form import require_scores
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.offset import fitted_offset, with_offset
from qkatlas.jobs.inputs.opening import EVERY_FAMILY, ModelJob
from qkatlas.jobs.inputs.settings import require_top_k_fits
from qkatlas.jobs.loop.digest import digest_of
from qkatlas.jobs.loop.step import AnyStep, Context, Produced, Step
from qkatlas.jobs.worker.ov import OV_BOTTOMK, OV_SELF, OV_TOPK, ov_tables, score_written
from qkatlas.jobs.worker.prepared import Rows, prepared_keys
from qkatlas.jobs.worker.ranges import row_shards, row_shards_between
from qkatlas.jobs.worker.tables import SELF, TOKENS, TOPK, self_table, tokens_table, topk_table
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit.kinds import BOTH, FOLDED
from qkatlas.pipeline.circuit.ov import OvInputs, ov_inputs, ov_weights, unembedding_of
from qkatlas.pipeline.circuit.projection import HeadInputs, head_inputs, head_weights
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.engine import score_rows


@dataclass(frozen=True)
class Sides:
    """What is multiplied, for every token: of attention, and of what is written; None where it is not asked for."""

    attended: HeadInputs | None
    written: OvInputs | None

    def identity(self) -> str:
        """SHA-256 of what is there; of attention alone it is that of queries, keys and scale."""
        return digest_of(self.attended if self.written is None else (self.attended, self.written))


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
    families = EVERY_FAMILY
    tables = (TOPK, SELF, OV_TOPK, OV_BOTTOMK, OV_SELF, TOKENS)
    shows = ("topk", "self", "ov_topk", "tokens")
    look = ("self", '.nlargest(10, "self_gap")')

    def __init__(self, spec: FullVocab, model: Model) -> None:
        super().__init__(spec, model)
        shape = model.checkpoint.architecture
        self._head = Head.parse(spec.head)
        self._head.require_inside(shape.n_layers, shape.n_heads)
        require_top_k_fits(spec.top_k, shape.vocab_size)
        require_written(spec, model.checkpoint)
        self._offset = fitted_offset(spec.offset, shape, [self._head.layer]) if attends(spec) else None
        self._states = ChosenStates.fitted(spec, model)
        if attends(spec):
            require_scores(shape, spec.scores)
        self._shards = row_shards(self._head, shape.vocab_size, spec.shards)
        self._inputs: HeadInputs | None = None
        self._written: OvInputs | None = None
        self._states_VD: np.ndarray | None = None
        if not attends(spec):
            self.look = ("ov_self", '.nsmallest(10, "self_rank")')

    def settings(self) -> dict[str, Any]:
        """The settings that change results; shards do not."""
        settings = asdict(self.spec)
        del settings["shards"]
        return with_circuit(with_offset(self._states.within(settings), self._offset), self.spec)

    def steps(self) -> Sequence[AnyStep]:
        """One step: row ranges of nearly equal length that cover the vocabulary."""
        return [
            Step(
                kind="rows",
                shards=self._shards,
                share=lambda context: Rows.of(self.sides(context.threads)),
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
        """Scores that a shard computes; what is written is ranked from either end."""
        passes = attends(self.spec) + 2 * writes(self.spec)
        return passes * (shard.bounds["stop"] - shard.bounds["start"]) * self.model.checkpoint.architecture.vocab_size

    def prepare(self, context: Context) -> None:
        """Compute what is multiplied, before anything is written.

        Raises:
            ValueError: if they or their scores leave the range of float32.
        """
        self.sides(context.threads)
        context.clock.lap("states, queries and keys")

    def sides(self, threads: int) -> Sides:
        """What is multiplied, as far as it is asked for; computed once."""
        return Sides(
            self.inputs(threads) if attends(self.spec) else None, self._outputs(threads) if writes(self.spec) else None
        )

    def inputs(self, threads: int) -> HeadInputs:
        """Queries and keys of the head for every token, computed once."""
        if self._inputs is None:
            weights = head_weights(self.model.checkpoint, self._head, scores=self.spec.scores)
            self._inputs = head_inputs(weights, self._token_states(threads), offset=self._offset, threads=threads)
        return self._inputs

    def _outputs(self, threads: int) -> OvInputs:
        """Values and outputs of the head for every token, computed once."""
        if self._written is None:
            unembedding = unembedding_of(self.model.checkpoint, self.spec.unembed or FOLDED)
            weights = ov_weights(self.model.checkpoint, self._head, unembedding)
            self._written = ov_inputs(weights, self._token_states(threads), unembedding.rows_VD, threads=threads)
            self._states_VD = None
        return self._written

    def _token_states(self, threads: int) -> np.ndarray:
        """States in front of the head's layer; kept only until both sides are made of them."""
        layer = self._head.layer
        states_VD = self._states_VD
        if states_VD is None:
            states_VD = self._states.begin(self.model, layer=layer, threads=threads).advance_to(layer)
            self._states_VD = states_VD if self.spec.circuit == BOTH else None
        return states_VD

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens."""
        return {"tokens": tokens_table(self.model)}

    def answer(self, run: Run) -> Printed:
        """What some well-known words attend to, or what attending to them promotes."""
        return top_attended(run, self.model) if attends(self.spec) else most_promoted(run, self.model)


def score_shard(grant: Grant, shard: Shard, rows: Rows[Sides], k: int) -> Produced:
    """Score one range of rows; runs on a worker.

    Args:
        grant: what the worker may use.
        shard: the range.
        rows: queries and keys of the whole vocabulary, values and outputs.
        k: keys kept for each.
    """
    started = time.perf_counter()
    attended, written = rows.inputs.attended, rows.inputs.written
    token_ids_R = np.arange(shard.rows.start, shard.rows.stop, dtype=np.int32)
    tables: dict[str, pa.Table] = {}
    scored = 0
    if attended is not None:
        keys = prepared_keys(rows.made_from, attended.keys_VH, grant.device)
        queries_RH = attended.queries_VH[shard.rows]
        scores = score_rows(queries_RH, keys, row_ids_R=token_ids_R, k=k, scale=attended.scale, threads=grant.cpus)
        tables |= {"topk": topk_table(token_ids_R, scores), "self": self_table(token_ids_R, scores)}
        scored += len(token_ids_R) * len(attended.keys_VH)
    if written is not None:
        outputs = prepared_keys(rows.made_from, written.outputs_VH, grant.device, use="outputs")
        values_RH = written.values_VH[shard.rows]
        tables |= ov_tables(token_ids_R, score_written(values_RH, outputs, token_ids_R, k=k, threads=grant.cpus))
        scored += 2 * len(token_ids_R) * len(written.outputs_VH)
    measures = {"scoring_seconds": round(time.perf_counter() - started, 4), "scores": scored}
    return Produced(tables, {}, measures)
