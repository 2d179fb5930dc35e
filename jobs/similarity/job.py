"""How `similarity` is planned, computed and finished."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table as Printed

from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.form import require_scores
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.offset import fitted_offset, with_offset
from qkatlas.jobs.inputs.opening import ModelJob
from qkatlas.jobs.loop.step import AnyStep, Context, Step
from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.similarity.answer import similarity_curve
from qkatlas.jobs.similarity.spec import Similarity
from qkatlas.jobs.similarity.work import Pairs, sum_pairs
from qkatlas.jobs.worker.ranges import row_ranges
from qkatlas.jobs.worker.tables import TOKENS, tokens_table
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import similarity as schemas
from qkatlas.pipeline.circuit.kin import unit_states
from qkatlas.pipeline.circuit.projection import head_inputs, head_weights
from qkatlas.pipeline.circuit.similarity import SCORE_BINS, PairSums, ScoreRange, curve
from qkatlas.pipeline.models.head import Head

SIMILARITY = Table(name="similarity", rows="one row a bin of cosine similarity", schema=schemas.SIMILARITY)
HISTOGRAM = Table(
    name="histogram", rows="one row for each cell with pairs", schema=schemas.HISTOGRAM,
    file="histogram/part-{part:05d}.parquet",
)  # fmt: skip
SUBSET = Table(name="subset", rows="one row a token", schema=schemas.SUBSET, when="--frequencies")


class SimilarityJob(ModelJob[Similarity]):
    """All pairs of tokens, a range of queries a shard.

    Args:
        spec: what is asked for.
        model: the model.

    Raises:
        ValueError: if the head or a listed token is outside the model.
    """

    name = "similarity"
    tables = (TOKENS, SIMILARITY, HISTOGRAM, SUBSET)
    shows = ("similarity", "histogram")
    look = ("similarity.parquet", '.query("count > 0")')

    def __init__(self, spec: Similarity, model: Model) -> None:
        super().__init__(spec, model)
        shape = model.checkpoint.architecture
        self._head = Head.parse(spec.head)
        self._head.require_inside(shape.n_layers, shape.n_heads)
        self._offset = fitted_offset(spec.offset, shape, [self._head.layer])
        require_scores(shape, spec.scores)
        self._states = ChosenStates.fitted(spec, model)
        self._listed = spec.listed()
        self._tokens = spec.tokens
        if self._listed is not None:
            self._listed.require_inside(shape.vocab_size)
            self._tokens = self._listed.token_ids
        self._count = shape.vocab_size if self._tokens is None else len(self._tokens)
        self._pairs: Pairs | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that change results; a subset counts by its tokens, in their order."""
        spec = self.spec
        tokens = None
        if self._tokens is not None:
            digest = hashlib.sha256(np.array(self._tokens, "<i4").tobytes()).hexdigest()
            tokens = {"count": self._count, "sha256": digest}
        named = {name: getattr(spec, name) for name in ("head", "states", "scores", "bins")}
        return with_offset(self._states.within({**named, "tokens": tokens}), self._offset)

    def notes(self) -> Iterable[str]:
        """What `--states auto` means, and what is wrong with the frequencies, if their texts are not the model's."""
        yield from self._states.notes()
        if self._listed is not None:
            yield from self._listed.notes(self.model.vocabulary)

    def steps(self) -> Sequence[AnyStep]:
        """One step: fixed ranges of query tokens."""
        shards = [
            Shard(f"{self._head}-{bounds['start']:06d}", self.spec.head, bounds, "pairs")
            for bounds in row_ranges(self._count)
        ]
        return [
            Step(
                kind="pairs",
                shards=shards,
                share=lambda context: self._prepared(context.threads),
                each=lambda shard: self.spec.bins,
                compute=sum_pairs,
                preparing="states, queries and keys",
            )
        ]

    def scores_in(self, shard: Shard) -> int:
        """Pairs of a shard."""
        return (shard.bounds["stop"] - shard.bounds["start"]) * self._count

    def prepare(self, context: Context) -> None:
        """Compute states, queries and keys, before anything is written.

        Raises:
            ValueError: if queries, keys or their scores leave the range of float32.
        """
        self._prepared(context.threads)
        context.clock.lap("states, queries and keys")

    def _prepared(self, threads: int) -> Pairs:
        """The tokens, computed once."""
        if self._pairs is None:
            layer = self._head.layer
            states_VD = self._states.begin(self.model, layer=layer, threads=threads).advance_to(layer)
            if self._tokens is not None:
                states_VD = states_VD[np.array(self._tokens)]
            weights = head_weights(self.model.checkpoint, self._head, scores=self.spec.scores)
            inputs = head_inputs(weights, states_VD, offset=self._offset, threads=threads)
            unit_VD = unit_states(states_VD, self.model.checkpoint.architecture.norm, threads=threads)
            self._pairs = Pairs(unit_VD=unit_VD, inputs=inputs, scores=ScoreRange.of(inputs))
        return self._pairs

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens, the curve over all shards, and which tokens were taken."""
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
        tables = {"tokens": tokens_table(self.model), "similarity": _similarity_table(total, scores)}
        if self._tokens is not None:
            tables["subset"] = pa.Table.from_arrays([pa.array(self._tokens, pa.int32())], schema=schemas.SUBSET)
        return tables

    def answer(self, run: Run) -> Printed:
        """The curve in a few rows."""
        return similarity_curve(run)


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
