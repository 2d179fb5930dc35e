"""What an ablation run computes on its workers: passages with the model as it is, and with components ablated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import ablation as schemas
from qkatlas.pipeline.models.forward import Forward, for_batches, prompt_batches
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.ablation import Measured, Measurement, measure_ablated, measure_clean
from qkatlas.pipeline.passes.components import CLEAN, Component
from qkatlas.pipeline.text.passages import Passages

Means = Mapping[Component, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Unchanged:
    """What all shards of a corpus share that ablate nothing.

    Attributes:
        weights: the model.
        measurement: what is measured.
        summed: layers whose outputs are summed for their means, beside the embeddings; None = no means are needed.
    """

    weights: ModelWeights
    measurement: Measurement
    summed: tuple[int, ...] | None

    def identity(self) -> str:
        """SHA-256 of the weights."""
        return self.weights.key


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """What all shards of a corpus share that ablate something.

    Attributes:
        weights: the model.
        measurement: what is measured.
        kind: what takes the place of an output.
        means: mean outputs, float32 [D]; none where no mean takes the place.
        made_from: hash of the weights, and of what the same passages gave with nothing ablated.
    """

    weights: ModelWeights
    measurement: Measurement
    kind: str
    means: Means
    made_from: str

    def identity(self) -> str:
        """See `made_from`."""
        return self.made_from


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one shard ablates, and in which passages."""

    passages: Passages
    components: tuple[Component, ...]


def run_unchanged(grant: Grant, shard: Shard, shared: Unchanged, passages: Passages) -> Produced:
    """Measure some passages with nothing ablated, and sum outputs for their means; runs on a worker."""
    weights = shared.weights

    def batch_of(model: Forward, rows: slice) -> tuple[Measured, dict[Component, np.ndarray]]:
        return measure_clean(model, passages[rows], shared.measurement, shared.summed or ())

    done = for_batches(
        weights, prompt_batches(len(passages.tokens_PT)), batch_of, threads=grant.cpus, device=grant.device
    )
    tables = _measured_tables(shard, shared.measurement, [CLEAN], [measured for measured, _ in done], passages)
    if shared.summed is None:
        return Produced(tables)
    sums = {component: np.sum([each[component] for _, each in done], axis=0) for component in done[0][1]}
    columns = {
        "kind": [component.kind for component in sums],
        "layer": [component.layer for component in sums],
        "sum": list(sums.values()),
        "count": [passages.tokens_PT.size] * len(sums),
    }
    a = weights.architecture
    table = pa.table(columns, schema=schemas.output_sums(a.d_model, a.n_heads * a.d_head))
    return Produced({**tables, "output_sums": table})


def run_ablated(grant: Grant, shard: Shard, shared: Replaced, piece: Piece) -> Produced:
    """Measure some passages with each of some components ablated; runs on a worker."""
    passages, components = piece.passages, piece.components

    def batch_of(model: Forward, rows: slice) -> Measured:
        return measure_ablated(
            model, passages[rows], shared.measurement, components, kind=shared.kind, means=shared.means
        )

    done = for_batches(
        shared.weights, prompt_batches(len(passages.tokens_PT)), batch_of, threads=grant.cpus, device=grant.device
    )
    return Produced(_measured_tables(shard, shared.measurement, components, done, passages))


def _measured_tables(
    shard: Shard,
    measurement: Measurement,
    components: Sequence[Component],
    done: Sequence[Measured],
    passages: Passages,
) -> dict[str, pa.Table]:
    """What was measured, component by component and passage by passage."""
    numbers = np.arange(shard.rows.start, shard.rows.stop, dtype=np.int32)
    names = np.array([component.name for component in components])
    heads = [head for head in measurement.heads if head.layer >= components[0].first_layer_after]
    tables = {}
    if heads:
        scores_MPZ = np.concatenate([measured.scores_MPZ for measured in done], axis=1)
        rows = len(numbers) * len(heads)
        columns = [
            pa.array(np.repeat(names, rows)),
            pa.array(np.tile(np.repeat(numbers, len(heads)), len(names))),
            pa.array(np.tile(np.array([head.layer for head in heads], np.int32), len(numbers) * len(names))),
            pa.array(np.tile(np.array([head.index for head in heads], np.int32), len(numbers) * len(names))),
            pa.array(scores_MPZ.reshape(-1)),
        ]
        tables["prompt_scores"] = pa.Table.from_arrays(columns, schema=schemas.PROMPT_SCORES)
    losses = [measured.losses_MP for measured in done if measured.losses_MP is not None]
    if losses:
        columns = [
            pa.array(np.repeat(names, len(numbers))),
            pa.array(np.tile(numbers, len(names))),
            pa.array(np.concatenate(losses, axis=1).reshape(-1)),
            pa.array(np.tile(passages.predicted_PT.sum(axis=1, dtype=np.int32), len(names))),
        ]
        tables["passage_losses"] = pa.Table.from_arrays(columns, schema=schemas.PASSAGE_LOSSES)
    return tables
