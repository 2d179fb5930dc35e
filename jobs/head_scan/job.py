"""How `head-scan` is planned, computed and finished."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Group

from qkatlas.jobs.head_scan.answer import closing
from qkatlas.jobs.head_scan.shards import HEADS, by_layer, head_shards, layer_kin_shards
from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.head_scan.work import HeadTask, LayerInputs, find_layer_kin, scan_head
from qkatlas.jobs.head_scan.written import WrittenTo
from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.circuit import attends, require_written, with_circuit, writes
from qkatlas.jobs.inputs.form import require_scores
from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.inputs.hubs import HUBS, hubs_table, require_hubs_fit, settled
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.offset import fitted_offset, with_offset
from qkatlas.jobs.inputs.opening import ModelJob
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.jobs.inputs.settings import require_top_k_fits
from qkatlas.jobs.loop.step import AnyStep, Context, Step, nothing_more
from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.worker.head_prompts import HeadPrompts
from qkatlas.jobs.worker.kin import UnitStates, committed_kin
from qkatlas.jobs.worker.ov import OV_BOTTOMK, OV_SELF_WITH_KIN, OV_TOPK
from qkatlas.jobs.worker.tables import (
    KIN,
    PROMPT_SCORES,
    PROMPTS,
    SELF_WITH_KIN,
    TOKENS,
    TOPK,
    heads_table,
    ov_spectrum_table,
    spectrum_table,
    tokens_table,
)
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import head_scan as schemas
from qkatlas.outputs.schemas import ov as schemas_ov
from qkatlas.pipeline.circuit.collapse import collapse
from qkatlas.pipeline.circuit.hubs import Hubs
from qkatlas.pipeline.circuit.kin import unit_states
from qkatlas.pipeline.circuit.kinds import FOLDED
from qkatlas.pipeline.circuit.labels import label, token_share
from qkatlas.pipeline.circuit.ov import Unembedding, ov_weights, unembedding_of
from qkatlas.pipeline.circuit.projection import bilinear_factors, head_weights
from qkatlas.pipeline.circuit.spectrum import cross_moment, second_moment
from qkatlas.pipeline.circuit.states import States, normalise
from qkatlas.pipeline.models.head import Head


@dataclass(frozen=True)
class _LayerStates:
    """Token states in front of a layer, and their hash."""

    layer: int
    values_VD: np.ndarray
    made_from: str


class HeadScanJob(ModelJob[HeadScan]):
    """Prompts, then layer by layer the kin of all tokens and every head, both from the same token states.

    Args:
        spec: what is asked for.
        model: the model.

    Attributes:
        heads: the heads, by layer and place.
        drawn: the category prompts.
        prompts: what the model is run on.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "head-scan"
    tables = (
        replace(TOPK, kinds=(HEADS,)),
        replace(SELF_WITH_KIN, kinds=(HEADS,)),
        KIN,
        PROMPT_SCORES,
        TOKENS,
        PROMPTS,
        Table(name="heads", rows="one row a head", schema=schemas_ov.HEADS_THAT_WRITE),
        Table(name="spectrum", rows="2H rows a head", schema=schemas.SPECTRUM),
        replace(OV_TOPK, kinds=(HEADS,)),
        replace(OV_BOTTOMK, kinds=(HEADS,)),
        replace(OV_SELF_WITH_KIN, kinds=(HEADS,)),
        Table(name="ov_spectrum", rows="H rows a head", schema=schemas_ov.SPECTRUM, when=OV_SELF_WITH_KIN.when),
        HUBS,
    )
    shows = ("heads", "spectrum", "topk", "self", "ov_topk", "hubs")
    look = ("heads.parquet", '.nlargest(10, "suppression_index_mean")')

    def __init__(self, spec: HeadScan, model: Model) -> None:
        super().__init__(spec, model)
        shape = model.checkpoint.architecture
        self.heads = heads_within(spec.layers, spec.heads, n_layers=shape.n_layers, n_heads=shape.n_heads)
        require_top_k_fits(spec.top_k, shape.vocab_size)
        require_hubs_fit(spec.exclude_hubs, spec.top_k, shape.vocab_size)
        require_written(spec, model.checkpoint)
        layers = [head.layer for head in self.heads]
        self._offset = fitted_offset(spec.offset, shape, layers) if attends(spec) else None
        if attends(spec):
            require_scores(shape, spec.scores)
        self._has_form = not shape.head_norms  # q/k norms leave scores without a bilinear form
        self.drawn = DrawnPrompts.draw(
            model, words=spec.categories, count=spec.prompts, length=spec.length, seed=spec.seed
        )
        self._chosen = ChosenStates.fitted(spec, model)
        self.prompts = HeadPrompts(model, self.heads, self.drawn, states=self._chosen, seed=spec.seed)
        self._states: States | None = None
        self._newest: _LayerStates | None = None
        if not attends(spec):
            self.look = ("heads.parquet", '.nlargest(10, "ov_self_top10_share")')

    def settings(self) -> dict[str, Any]:
        """The settings that change results: heads by their names, words by the tokens they are."""
        settings = asdict(replace(self.spec, categories=None))
        del settings["categories"], settings["layers"]
        settings |= {"heads": list(map(str, self.heads)), **self.drawn.identity()}
        return with_circuit(with_offset(self._chosen.within(settled(settings)), self._offset), self.spec)

    def notes(self) -> Iterable[str]:
        """Words that the prompts leave out, and what the model has not."""
        yield from self._chosen.notes()
        dropped = self.drawn.dropped() if attends(self.spec) else None
        if dropped is not None:
            yield dropped
        if attends(self.spec) and not self._has_form:
            yield (
                "the model normalises each head's queries and keys (q_norm, k_norm): its heads have no bilinear form, "
                "and the columns of spectra are empty"
            )

    def steps(self) -> Sequence[AnyStep]:
        """The prompts; then a layer's kin, its heads, the next one's kin, and so on.

        A layer's heads wait for its kin alone. So they are computed beside the next layer's kin, and the workers are
        busy while the driver takes the states to that layer.
        """
        steps: list[AnyStep] = [self.prompts.step()] if attends(self.spec) else []
        for layer, heads in by_layer(self.heads):
            kin = self._kin_step(layer)
            steps += [kin, self._heads_step(layer, heads, kin)]
        return steps

    def _kin_step(self, layer: int) -> Step[UnitStates, None]:
        def share(context: Context) -> UnitStates:
            states = self._states_of(layer, context.threads)
            norm = self.model.checkpoint.architecture.norm
            return UnitStates(unit_states(states.values_VD, norm, threads=context.threads), states.made_from)

        return Step(
            kind="kin",
            shards=layer_kin_shards(layer, self.model.checkpoint.architecture.vocab_size),
            share=share,
            each=nothing_more,
            compute=find_layer_kin,
            preparing="token states",
        )

    def _heads_step(
        self, layer: int, heads: Sequence[Head], kin: Step[UnitStates, None]
    ) -> Step[LayerInputs, HeadTask]:
        def share(context: Context) -> LayerInputs | None:
            states = self._states_of(layer, context.threads)
            kin_ids_VN = committed_kin(context.run, kin.shards, states.made_from, len(states.values_VD))
            if kin_ids_VN is None:
                return None
            norm = self.model.checkpoint.architecture.norm
            normalised_VD = normalise(states.values_VD, norm, threads=context.threads)
            return LayerInputs(
                states_VD=states.values_VD,
                kin_ids_VN=kin_ids_VN,
                moment_DD=second_moment(normalised_VD, threads=context.threads),
                made_from=states.made_from,
                collapse=collapse(states.values_VD, norm, threads=context.threads),
                written_to=self._written_to(normalised_VD, context.threads),
            )

        return Step(
            kind=HEADS,
            shards=head_shards(heads),
            share=share,
            each=self._head_task,
            compute=scan_head,
            after=(kin,),
            preparing="token states",
        )

    def _head_task(self, shard: Shard) -> HeadTask:
        head = Head(shard.bounds["layer"], shard.bounds["head"])
        checkpoint, has_spectrum = self.model.checkpoint, attends(self.spec) and self._has_form
        return HeadTask(
            head=head,
            weights=head_weights(checkpoint, head, scores=self.spec.scores) if attends(self.spec) else None,
            factors=bilinear_factors(checkpoint, head, offset=self._offset) if has_spectrum else None,
            offset=self._offset,
            top_k=self.spec.top_k,
            exclude_hubs=self.spec.exclude_hubs,
            seed=self.spec.seed,
            ov=None if self._unembedding is None else ov_weights(checkpoint, head, self._unembedding),
        )

    def _written_to(self, normalised_VD: np.ndarray, threads: int) -> WrittenTo | None:
        if self._unembedding is None:
            return None
        moment_DD = cross_moment(self._unembedding.centred(), normalised_VD, threads=threads)
        return WrittenTo(unembedding_VD=self._unembedding.rows_VD, cross_moment_DD=moment_DD)

    @cached_property
    def _unembedding(self) -> Unembedding | None:
        """What heads write to; None where that is not asked for."""
        return unembedding_of(self.model.checkpoint, self.spec.unembed or FOLDED) if writes(self.spec) else None

    def scores_in(self, shard: Shard) -> int:
        """Scores that a shard computes; a cosine counts as many as its width is to a head's, and prompts for none."""
        shape = self.model.checkpoint.architecture
        if shard.kind == HEADS:
            return (attends(self.spec) + 2 * writes(self.spec)) * shape.vocab_size**2
        if shard.kind == "kin":
            return (shard.bounds["stop"] - shard.bounds["start"]) * shape.vocab_size * shape.d_model // shape.d_head
        return 0

    def prepare(self, context: Context) -> None:
        """Begin the token states, which are computed layer by layer.

        Raises:
            ValueError: if the model cannot give this kind of states.
        """
        self._states = self._begin_states(context.threads)
        context.clock.lap("token states")

    def _states_of(self, layer: int, threads: int) -> _LayerStates:
        """Token states of a layer, taken on from those of the layer before where these are at hand."""
        if self._states is None or self._states.layer > layer:
            self._states = self._begin_states(threads)
        if self._newest is None or self._newest.layer != layer:
            values_VD = self._states.advance_to(layer)
            self._newest = _LayerStates(layer, values_VD, hashlib.sha256(values_VD.data).hexdigest())
        return self._newest

    def _begin_states(self, threads: int) -> States:
        return self._chosen.begin(self.model, layer=self.heads[-1].layer, threads=threads)

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens, the prompts, a row for each head, the spectra, and the keys that were left out."""
        receipts = run.receipts()
        summaries = [(head, receipts[str(head)].summary) for head in self.heads]
        columns = self.prompts.columns(run) if attends(self.spec) else {}
        rows = [self._row(head, {**summary["head"], **columns.get(head, {})}) for head, summary in summaries]
        tables = {"tokens": tokens_table(self.model)}
        if attends(self.spec):
            tables |= {"prompts": self.drawn.table(), "heads": heads_table(rows), "spectrum": spectrum_table(summaries)}
        if writes(self.spec):
            tables |= {
                "heads": heads_table(rows, schemas_ov.HEADS_THAT_WRITE), "ov_spectrum": ov_spectrum_table(summaries)
            }  # fmt: skip
        if self.spec.exclude_hubs is not None:
            size = self.model.checkpoint.architecture.vocab_size
            found = {head: Hubs.of_lists(*summary["hubs"], of=size) for head, summary in summaries}
            tables["hubs"] = hubs_table(found, self.model.vocabulary.texts())
        return tables

    def _row(self, head: Head, columns: Mapping[str, Any]) -> dict[str, Any]:
        share = token_share(columns.get("row_fidelity"), columns.get("fidelity_offset_only"))
        row = {"layer": head.layer, "head": head.index, **columns, "token_share": share}
        return {**row, "label": label(row, self.model.checkpoint.architecture.vocab_size)}

    def answer(self, run: Run) -> Group:
        """The heads that suppress themselves most, the layers whose token states do not hold, and what was left out."""
        return closing(run, self.model, self.spec.exclude_hubs)
