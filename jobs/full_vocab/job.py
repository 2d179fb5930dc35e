"""How `full-vocab` is planned, computed and finished."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import RenderableType

from qkatlas.jobs.full_vocab.answer import closing
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.full_vocab.work import (
    BEST,
    RowsWithoutHubs,
    Sides,
    best_shards,
    find_best,
    found_hubs,
    score_shard,
    score_without_hubs,
)
from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.circuit import attends, require_written, with_circuit, writes
from qkatlas.jobs.inputs.form import require_scores
from qkatlas.jobs.inputs.hubs import HUBS, hubs_table, require_hubs_fit, settled
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.offset import fitted_offset, with_offset
from qkatlas.jobs.inputs.opening import ModelJob
from qkatlas.jobs.inputs.settings import require_top_k_fits
from qkatlas.jobs.loop.step import AnyStep, Context, Step, nothing_more
from qkatlas.jobs.worker.ov import OV_BOTTOMK, OV_SELF, OV_TOPK
from qkatlas.jobs.worker.prepared import Rows
from qkatlas.jobs.worker.ranges import row_shards, row_shards_between
from qkatlas.jobs.worker.tables import SELF, TOKENS, TOPK, tokens_table
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit.hubs import Hubs
from qkatlas.pipeline.circuit.kinds import BOTH, FOLDED
from qkatlas.pipeline.circuit.ov import OvInputs, ov_inputs, ov_weights, unembedding_of
from qkatlas.pipeline.circuit.projection import HeadInputs, head_inputs, head_weights
from qkatlas.pipeline.models.head import Head


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
    tables = (TOPK, SELF, OV_TOPK, OV_BOTTOMK, OV_SELF, TOKENS, BEST, HUBS)
    shows = ("topk", "self", "ov_topk", "tokens", "hubs")
    look = ("self", '.nlargest(10, "self_gap")')

    def __init__(self, spec: FullVocab, model: Model) -> None:
        super().__init__(spec, model)
        shape = model.checkpoint.architecture
        self._head = Head.parse(spec.head)
        self._head.require_inside(shape.n_layers, shape.n_heads)
        require_top_k_fits(spec.top_k, shape.vocab_size)
        require_hubs_fit(spec.exclude_hubs, spec.top_k, shape.vocab_size)
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
        return with_circuit(with_offset(self._states.within(settled(settings)), self._offset), self.spec)

    def notes(self) -> Iterable[str]:
        """What `--states auto` means in the model."""
        return self._states.notes()

    def steps(self) -> Sequence[AnyStep]:
        """Row ranges of nearly equal length that cover the vocabulary; hubs are found first where they are left out."""
        preparing = "states, queries and keys"
        if self.spec.exclude_hubs is None:
            return [
                Step(
                    kind="rows",
                    shards=self._shards,
                    share=lambda context: Rows.of(self.sides(context.threads)),
                    each=lambda shard: self.spec.top_k,
                    compute=score_shard,
                    preparing=preparing,
                )
            ]
        best = Step(
            kind=BEST.name,
            shards=best_shards(self._shards),
            share=lambda context: Rows.of(self.sides(context.threads)),
            each=nothing_more,
            compute=find_best,
            preparing=preparing,
        )
        rows = Step(
            kind="rows",
            shards=self._shards,
            share=self._rows_without_hubs,
            each=lambda shard: self.spec.top_k,
            compute=score_without_hubs,
            after=(best,),
            preparing=preparing,
        )
        return [best, rows]

    def _rows_without_hubs(self, context: Context) -> RowsWithoutHubs | None:
        """The rows and the hubs among their best keys; None unless all of these were found from the same rows."""
        rows = Rows.of(self.sides(context.threads))
        hubs = self._hubs(context.run, made_from=rows.made_from)
        return None if hubs is None else RowsWithoutHubs(rows=rows, hub_ids_N=hubs.ids_N)

    def _hubs(self, run: Run, *, made_from: str | None = None) -> Hubs | None:
        """The hubs among a run's best keys, however it was cut; see `found_hubs`."""
        plan, share = run.plan(), self.spec.exclude_hubs
        assert plan is not None, "it was fixed first"
        assert share is not None, "none are left out otherwise"
        return found_hubs(run, [one for one in plan.shards if one.kind == BEST.name], share, made_from=made_from)

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards are this head's, one after the other, from the first token to the last."""
        if self.spec.exclude_hubs is not None:
            rows = [shard for shard in shards if shard.kind == "rows"]
            return list(shards) == [*best_shards(rows), *rows] and self._are_rows(rows)
        return self._are_rows(shards)

    def _are_rows(self, shards: Sequence[Shard]) -> bool:
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
        """The tokens, and the keys that were left out."""
        tables = {"tokens": tokens_table(self.model)}
        if self.spec.exclude_hubs is not None:
            hubs = self._hubs(run)
            assert hubs is not None, "a run is reduced when all of it is there"
            tables["hubs"] = hubs_table({self._head: hubs}, self.model.vocabulary.texts())
        return tables

    def answer(self, run: Run) -> RenderableType:
        """What some well-known words attend to, or what attending to them promotes, and what was left out."""
        return closing(run, self.model, self.spec)
