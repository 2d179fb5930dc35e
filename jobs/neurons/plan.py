"""What `neurons` would take.

Shapes: V vocabulary, D model, H head dimension, J neurons, T positions, B windows, R places of a text.
"""

from __future__ import annotations

from qkatlas.jobs.neurons.job import NEURONS_PER_SHARD, component_shard, neuron_shards
from qkatlas.jobs.neurons.spec import LONGEST, Neurons
from qkatlas.jobs.plan import memory as held
from qkatlas.jobs.plan.load import preparing
from qkatlas.jobs.plan.plan import Plan
from qkatlas.jobs.plan.shape import Shape
from qkatlas.jobs.plan.step import DRIVER, WORKERS, Load, Step
from qkatlas.jobs.plan.table import PlannedTable
from qkatlas.jobs.positions.corpus import length_within
from qkatlas.jobs.positions.spec import windows_of
from qkatlas.jobs.worker.tables import TOKENS
from qkatlas.outputs.schemas import neurons as schemas
from qkatlas.pipeline.models.blocks import BLOCK_ROWS
from qkatlas.pipeline.neurons.components import AGAIN, COMPONENTS, DRAWN
from qkatlas.pipeline.neurons.groups import DRAWS
from qkatlas.pipeline.neurons.kinds import LISTED, STRONGEST
from qkatlas.pipeline.neurons.text import DESTINATIONS

LATENTS_EACH = 4
"""Latents of a neuron; how many there are is known afterwards."""

LATENT_VALUES = 1e8
"""What the latents of a neuron take in values that are passed over: about 0.3 s."""

_ROUNDS = 200
"""Rounds of FastICA at most."""


def plan_neurons(shape: Shape, spec: Neurons) -> Plan:
    """Plan a run of `neurons`, with a text that is long enough; what `--group auto` asks of positions is not in it.

    Args:
        shape: the model.
        spec: what is asked for.

    Raises:
        ValueError: if the request does not fit the model.
    """
    v, d, h, j, n = shape.vocab_size, shape.d_model, shape.d_head, shape.d_mlp, shape.n_heads
    rotary = shape.positions == 0
    t = min(length_within(spec.length, shape.n_ctx, rotary=rotary), spec.length or LONGEST)
    windows = windows_of(spec.windows, t)
    places = windows * min(DESTINATIONS, t)
    shards = [*neuron_shards(j), component_shard(j)]
    chosen, k = min(spec.latents, j), min(STRONGEST, v)
    latents = chosen * LATENTS_EACH + COMPONENTS
    tables = [
        PlannedTable(name="tokens", files=1, rows=v, schema=TOKENS.schema),
        PlannedTable(name="neurons", files=1, rows=j, schema=schemas.neurons(min(LISTED, v))),
        PlannedTable(name="neuron_tokens", files=len(shards) - 1, rows=j, schema=schemas.neuron_tokens(k)),
        PlannedTable(name="latents", files=len(shards), rows=latents, schema=schemas.LATENTS),
        PlannedTable(name="bags", files=1, rows=n, schema=schemas.BAGS),
    ]
    # Kernels and factors: both passes over the vocabulary multiply it by positions, or project it for every head.
    factors = (
        Load(float64=4.0 * v * d * h * n, values=6.0 * v * t * n)
        if rotary
        else Load(float64=6.0 * v * t * d + 2.0 * v * h * d * n, values=8.0 * v * t + 4.0 * n * v * t)
    )
    passed = 4 * windows * t
    text = Load(float64=n * passed * (8.0 * d * h + 8.0 * places / windows * t * h / t), values=20.0 * n * places * t)
    embeddings = Load(float64=v * d * (4.0 * n * h + 4.0 * d + 2.0 * d), values=6.0 * v * d)
    parts = 10 + 2 * DRAWS
    products = Load(float64=2.0 * parts * places * d * j, values=12.0 * parts * places * j)
    contributions = Load(float32=4.0 * j * v * d, scores=2.0 * j * v, kept=2.0 * j * k * d / 64)
    components = Load(float64=(1 + AGAIN) * _ROUNDS * 4.0 * DRAWN * COMPONENTS**2 + 4.0 * v * d * COMPONENTS)
    written = sum(table.bytes(v) for table in tables if table.files > 1)
    ranges = len(shards) - 1
    steps = [
        Step(name="opening the model", place=DRIVER, load=Load(hashed=8.0 * shape.weights), one_thread=True),
        Step(name="kernels and factors", place=DRIVER, load=factors),
        Step(name="text", place=DRIVER, load=text),
        Step(name="extended embeddings", place=DRIVER, load=embeddings + Load(hashed=8.0 * v * d)),
        Step(name="preparing keys", place=WORKERS, load=preparing(v, d), each_worker=True),
        Step(name="contributions", place=WORKERS, load=contributions, shards=ranges),
        Step(name="fit on text", place=WORKERS, load=products, shards=ranges),
        Step(name="latents", place=WORKERS, load=Load(values=LATENT_VALUES * chosen), shards=ranges, one_thread=True),
        Step(name="components", place=WORKERS, load=components, one_thread=True),
        Step(name="writing", place=WORKERS, load=Load(written=written), shards=ranges, one_thread=True),
    ]
    state = 4.0 * v * d
    streams = 8.0 * parts * places * d
    shared = state + streams + j * d * 16.0
    memory = held.Memory(
        worker=held.WORKER_LIBRARIES
        + held.ALLOCATORS
        + held.moments(v, d)
        + held.packed(v, d)
        + 8.0 * 6 * places * NEURONS_PER_SHARD
        + 16.0 * v * COMPONENTS * 3,
        shared=2 * shared,
        driver=held.DRIVER_LIBRARIES
        + held.tokenizer(shape, 0.0)
        + 2 * shared
        + 3 * 8.0 * 8 * places * n * h
        + 16.0 * n * v
        + (8.0 * t * d * -(-v // BLOCK_ROWS) if not rotary else 16.0 * v * h)
        + 8 * 8.0 * d * d
        + (held.GGUF_WEIGHTS if shape.in_gguf else 0.0),
        gpu=0.0,
    )
    return Plan(job="neurons", shape=shape, shards=shards, tables=tables, steps=steps, memory=memory)
