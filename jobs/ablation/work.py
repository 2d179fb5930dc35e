"""What an ablation run computes on its workers: passages with the model as it is, and with components ablated."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.cost import cost_of
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import Part, write_part
from qkatlas.outputs.runs.reader import list_matrix, read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import ablation as schemas_ablation
from qkatlas.pipeline.models.forward import Forward, for_batches, prompt_batches
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.ablation import Measured, Measurement, measure_ablated, measure_clean
from qkatlas.pipeline.passes.components import CLEAN, Component
from qkatlas.pipeline.text.passages import Passages

Means = Mapping[Component, np.ndarray]


@dataclass(frozen=True)
class Work:
    """What every shard of some passages is given.

    Attributes:
        folder: the run's.
        corpus: which passages: `prompts` or `text`.
        measurement: what is measured on them.
        layers: layers whose outputs are summed for their means, beside the embeddings.
        kind: what takes the place of an output.
    """

    folder: Folder
    corpus: str
    measurement: Measurement
    layers: tuple[int, ...]
    kind: str


def run_clean(
    grant: Grant, shard: Shard, work: Work, digest: str, weights: ModelWeights, passages: Passages
) -> Receipt:
    """Measure some passages with nothing ablated, and sum outputs for their means; runs on a worker.

    Raises:
        OSError: if a part cannot be written.
    """
    started = time.perf_counter()

    def batch_of(model: Forward, rows: slice) -> tuple[Measured, dict[Component, np.ndarray]]:
        return measure_clean(model, passages[rows], work.measurement, work.layers)

    done = for_batches(
        weights, prompt_batches(len(passages.tokens_PT)), batch_of, threads=grant.cpus, device=grant.device
    )
    parts = _write(work, shard, [CLEAN], [measured for measured, _ in done], passages)
    if work.kind != "mean":
        return _receipt(grant, shard, digest, parts, started)
    sums = {component: np.sum([each[component] for _, each in done], axis=0) for component in done[0][1]}
    columns = {
        "kind": [component.kind for component in sums],
        "layer": [component.layer for component in sums],
        "sum": list(sums.values()),
        "count": [passages.tokens_PT.size] * len(sums),
    }
    schema = schemas_ablation.output_sums(weights.architecture.d_model)
    path = f"output_sums/corpus={work.corpus}/{_part_name(shard)}"
    parts.append(write_part(work.folder, path, pa.table(columns, schema=schema)))
    return _receipt(grant, shard, digest, parts, started)


def run_ablated(
    grant: Grant,
    shard: Shard,
    work: Work,
    digest: str,
    weights: ModelWeights,
    passages: Passages,
    components: Sequence[Component],
    means: Means,
) -> Receipt:
    """Measure some passages with each of some components ablated; runs on a worker.

    Raises:
        OSError: if a part cannot be written.
    """
    started = time.perf_counter()

    def batch_of(model: Forward, rows: slice) -> Measured:
        return measure_ablated(model, passages[rows], work.measurement, components, kind=work.kind, means=means)

    done = for_batches(
        weights, prompt_batches(len(passages.tokens_PT)), batch_of, threads=grant.cpus, device=grant.device
    )
    return _receipt(grant, shard, digest, _write(work, shard, components, done, passages), started)


def read_means(run: Run, parts: Sequence[Part]) -> dict[Component, np.ndarray]:
    """Mean outputs over all passages and positions, float32 [D], from committed sums."""
    table = read_parts(run, [part for part in parts if part.path.startswith("output_sums/")])
    sums_RD = list_matrix(table, "sum")
    totals: dict[Component, np.ndarray] = {}
    counts: dict[Component, int] = {}
    rows = zip(*(table[name].to_pylist() for name in ("kind", "layer", "count")), sums_RD, strict=True)
    for kind, layer, count, sum_D in rows:
        component = Component(kind, layer)
        totals[component] = totals.get(component, np.zeros(sums_RD.shape[1])) + sum_D
        counts[component] = counts.get(component, 0) + count
    return {component: (total / counts[component]).astype(np.float32) for component, total in totals.items()}


def read_measured(
    run: Run, receipts: Sequence[Receipt], components: Sequence[Component], targets: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Scores [M, P, Z] and summed losses [M, P] of some components on all passages, from committed parts.

    Args:
        run: the run.
        receipts: of the shards with these components, in order of their passages.
        components: the components.
        targets: heads that every one of them reaches.

    Returns:
        Either is None where it was not measured.
    """

    def read(table: str, column: str, *shape: int) -> np.ndarray | None:
        pieces = [
            read_parts(run, [part])[column].to_numpy().reshape(len(components), -1, *shape)
            for receipt in receipts
            for part in receipt.parts
            if part.path.startswith(table)
        ]
        return np.concatenate(pieces, axis=1) if pieces else None

    return read("prompt_scores/", "score", targets), read("passage_losses/", "loss")


def _write(
    work: Work, shard: Shard, components: Sequence[Component], done: Sequence[Measured], passages: Passages
) -> list[Part]:
    """Write what was measured, component by component and passage by passage."""
    numbers = np.arange(shard.bounds["start"], shard.bounds["stop"], dtype=np.int32)
    names = np.array([component.name for component in components])
    scores_MPZ = np.concatenate([measured.scores_MPZ for measured in done], axis=1)
    heads = [head for head in work.measurement.heads if head.layer >= components[0].first_layer_after]
    parts = []
    if heads:
        rows = len(numbers) * len(heads)
        columns = [
            pa.array(np.repeat(names, rows)),
            pa.array(np.tile(np.repeat(numbers, len(heads)), len(names))),
            pa.array(np.tile(np.array([head.layer for head in heads], np.int32), len(numbers) * len(names))),
            pa.array(np.tile(np.array([head.index for head in heads], np.int32), len(numbers) * len(names))),
            pa.array(scores_MPZ.reshape(-1)),
        ]
        table = pa.Table.from_arrays(columns, schema=schemas_ablation.PROMPT_SCORES)
        parts.append(write_part(work.folder, f"prompt_scores/source={_source(shard)}/{_part_name(shard)}", table))
    losses = [measured.losses_MP for measured in done if measured.losses_MP is not None]
    if losses:
        columns = [
            pa.array(np.repeat(names, len(numbers))),
            pa.array(np.tile(numbers, len(names))),
            pa.array(np.concatenate(losses, axis=1).reshape(-1)),
            pa.array(np.tile(passages.predicted_PT.sum(axis=1, dtype=np.int32), len(names))),
        ]
        table = pa.Table.from_arrays(columns, schema=schemas_ablation.PASSAGE_LOSSES)
        parts.append(write_part(work.folder, f"passage_losses/source={_source(shard)}/{_part_name(shard)}", table))
    return parts


def _source(shard: Shard) -> str:
    """Where the ablated components lie: none, embeddings, L0, L1, ..."""
    if shard.group.startswith("clean"):
        return "none"
    return f"L{shard.bounds['layer']}" if "layer" in shard.bounds else "embeddings"


def _part_name(shard: Shard) -> str:
    return f"part-{shard.bounds['part']:05d}.parquet"


def _receipt(grant: Grant, shard: Shard, digest: str, parts: Sequence[Part], started: float) -> Receipt:
    return Receipt(shard=shard.name, inputs=digest, parts=tuple(parts), measures=cost_of(grant, started))
