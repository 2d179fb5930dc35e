"""What `full-vocab` would take.

Shapes: V vocabulary, D model, H head dimension, K kept keys.
"""

from __future__ import annotations

from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.full_vocab.work import BEST, best_shards
from qkatlas.jobs.inputs.circuit import attends, writes
from qkatlas.jobs.inputs.hubs import HUBS, require_hubs_fit
from qkatlas.jobs.inputs.settings import require_top_k_fits
from qkatlas.jobs.plan.load import held_streams, passing_states, preparing, projecting, reads_text, scoring
from qkatlas.jobs.plan.memory import (
    ALLOCATORS,
    DRIVER_LIBRARIES,
    WORKER_LIBRARIES,
    Memory,
    moments,
    on_gpu,
    packed,
    tokenizer,
)
from qkatlas.jobs.plan.plan import Plan
from qkatlas.jobs.plan.shape import Shape
from qkatlas.jobs.plan.step import DRIVER, WORKERS, Load, Step
from qkatlas.jobs.plan.table import PlannedTable
from qkatlas.jobs.worker.ov import OV_BOTTOMK, OV_SELF, OV_TOPK
from qkatlas.jobs.worker.ranges import row_shards
from qkatlas.jobs.worker.tables import SELF, TOPK
from qkatlas.outputs.schemas import ov as schemas_ov
from qkatlas.outputs.schemas import scores as schemas
from qkatlas.pipeline.circuit.kinds import BOTH, OV, QK
from qkatlas.pipeline.models.head import Head


def plan_full_vocab(shape: Shape, spec: FullVocab) -> Plan:
    """Plan a run of `full-vocab`.

    Args:
        shape: the model.
        spec: what is asked for.

    Raises:
        ValueError: if the request does not fit the model.
    """
    head = Head.parse(spec.head)
    head.require_inside(shape.n_layers, shape.n_heads)
    require_top_k_fits(spec.top_k, shape.vocab_size)
    require_hubs_fit(spec.exclude_hubs, spec.top_k, shape.vocab_size)
    passes = {QK: 1, OV: 2, BOTH: 3}[spec.circuit]
    states, top_k, pool = shape.states(spec.states), spec.top_k, {"windows": spec.windows, "draws": spec.draws}
    planned = row_shards(head, shape.vocab_size, spec.shards)
    rows = [shard.bounds["stop"] - shard.bounds["start"] for shard in planned]
    asked = [
        *([(TOPK, schemas.topk(top_k)), (SELF, schemas.SELF)] if attends(spec) else []),
        *(
            [
                (OV_TOPK, schemas_ov.topk(top_k)),
                (OV_BOTTOMK, schemas_ov.topk(top_k, lowest=True)),
                (OV_SELF, schemas_ov.SELF),
            ]
            if writes(spec)
            else []
        ),
    ]
    files = {table.name: len({table.path(shard) for shard in planned}) for table, _ in asked}
    v, d, h = shape.vocab_size, shape.d_model, shape.d_head
    tables = [
        *(
            PlannedTable(
                name=table.name, files=files[table.name], rows=v, schema=schema,
                repeat=shape.lists_repeat if table is TOPK else 1.0,
            )
            for table, schema in asked
        ),
        PlannedTable(name="tokens", files=1, rows=v, schema=schemas.TOKENS),
    ]  # fmt: skip
    shards, found_first = planned, []
    if spec.exclude_hubs is not None:
        shards = [*best_shards(planned), *planned]
        tables += [
            PlannedTable(name=BEST.name, files=len(planned), rows=v, schema=schemas.BEST),
            PlannedTable(name=HUBS.name, files=1, rows=0, schema=schemas.HUBS),  # how many there are is found out
        ]
        found_first = [Step(name="best keys", place=WORKERS, load=scoring(v, h, 1), shards=len(planned), gpu_sweeps=2)]
    written = sum(table.bytes(v) for table in tables if table.name != "tokens")
    sides = attends(spec) + writes(spec)  # queries and keys, values and outputs
    steps = [
        Step(name="opening the model", place=DRIVER, load=Load(hashed=4.0 * shape.weights), one_thread=True),
        Step(name="token states", place=DRIVER, load=passing_states(shape, head.layer, states, **pool)),
        Step(name="queries and keys", place=DRIVER, load=(projecting(shape) + Load(hashed=8.0 * v * h)) * sides),
        Step(name="preparing keys", place=WORKERS, load=preparing(v, h) * sides, each_worker=True, torch_threads=True),
        *found_first,
        Step(
            name="scores", place=WORKERS, load=scoring(v, h, top_k) * passes, shards=len(planned), gpu_sweeps=2 * passes
        ),
        Step(name="writing", place=WORKERS, load=Load(written=written), shards=len(planned), one_thread=True),
    ]
    inputs, state = 8.0 * v * h * sides, 4.0 * v * d
    unembedding = state if writes(spec) else 0.0
    streams = held_streams(shape, head.layer, states, **pool)
    libraries = DRIVER_LIBRARIES + (tokenizer(shape, streams) if reads_text(states, spec.prefix) else 0.0)
    results = 2.0 * max(rows) * (8 * top_k + 60)
    memory = Memory(
        worker=WORKER_LIBRARIES + ALLOCATORS + moments(v, h) + sides * packed(v, h) + results * passes,
        shared=inputs * (1 if spec.exclude_hubs is None else 2),  # once for each of the steps
        driver=libraries + state * (2 if head.layer else 1) + streams + 2 * inputs + unembedding,
        gpu=on_gpu(v, h, max(rows), top_k),
    )
    return Plan(job="full-vocab", shape=shape, shards=shards, tables=tables, steps=steps, memory=memory)
