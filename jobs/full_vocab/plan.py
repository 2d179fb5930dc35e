"""What `full-vocab` would take.

Shapes: V vocabulary, D model, H head dimension, K kept keys.
"""

from __future__ import annotations

from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.circuit import attends, writes
from qkatlas.jobs.inputs.settings import require_top_k_fits
from qkatlas.jobs.plan.load import held_streams, passing_states, preparing, projecting, scoring
from qkatlas.jobs.plan.memory import (
    ALLOCATORS,
    DRIVER_LIBRARIES,
    PROMPT_DRIVER_LIBRARIES,
    WORKER_LIBRARIES,
    Memory,
    moments,
    on_gpu,
    packed,
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
from qkatlas.pipeline.circuit.kinds import BOTH, CONTEXT, OV, PREFIX, QK
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
    passes = {QK: 1, OV: 2, BOTH: 3}[spec.circuit]
    states, top_k, pool = spec.states, spec.top_k, {"windows": spec.windows, "draws": spec.draws}
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
        *(PlannedTable(name=table.name, files=files[table.name], rows=v, schema=schema) for table, schema in asked),
        PlannedTable(name="tokens", files=1, rows=v, schema=schemas.TOKENS),
    ]
    written = sum(table.bytes(v) for table in tables[:-1])
    sides = attends(spec) + writes(spec)  # queries and keys, values and outputs
    steps = [
        Step(name="opening the model", place=DRIVER, load=Load(hashed=4.0 * shape.weights), one_thread=True),
        Step(name="token states", place=DRIVER, load=passing_states(shape, head.layer, states, **pool)),
        Step(name="queries and keys", place=DRIVER, load=(projecting(shape) + Load(hashed=8.0 * v * h)) * sides),
        Step(name="preparing keys", place=WORKERS, load=preparing(v, h) * sides, each_worker=True, torch_threads=True),
        Step(
            name="scores", place=WORKERS, load=scoring(v, h, top_k) * passes, shards=len(planned), gpu_sweeps=2 * passes
        ),
        Step(name="writing", place=WORKERS, load=Load(written=written), shards=len(planned), one_thread=True),
    ]
    inputs, state = 8.0 * v * h * sides, 4.0 * v * d
    unembedding = state if writes(spec) else 0.0
    # The tokenizer that reads a text is transformers', whose libraries a model's own passes load too.
    libraries = PROMPT_DRIVER_LIBRARIES if states in (PREFIX, CONTEXT) else DRIVER_LIBRARIES
    streams = held_streams(shape, head.layer, states, **pool)
    results = 2.0 * max(rows) * (8 * top_k + 60)
    memory = Memory(
        worker=WORKER_LIBRARIES + ALLOCATORS + moments(v, h) + sides * packed(v, h) + results * passes,
        shared=inputs,
        driver=libraries + state * (2 if head.layer else 1) + streams + 2 * inputs + unembedding,
        gpu=on_gpu(v, h, max(rows), top_k),
    )
    return Plan(job="full-vocab", shape=shape, shards=planned, tables=tables, steps=steps, memory=memory)
