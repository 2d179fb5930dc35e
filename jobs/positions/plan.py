"""What `positions` would take.

Shapes: V vocabulary, D model, H head dimension, T positions, B windows, R destinations of a window.
"""

from __future__ import annotations

from qkatlas.jobs.head_scan.shards import by_layer, head_shards
from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.plan import memory as held
from qkatlas.jobs.plan.load import passing_states, running
from qkatlas.jobs.plan.plan import Plan
from qkatlas.jobs.plan.shape import Shape
from qkatlas.jobs.plan.step import DRIVER, WORKERS, Load, Step
from qkatlas.jobs.plan.table import PlannedTable
from qkatlas.jobs.positions.corpus import length_within
from qkatlas.jobs.positions.spec import Positions, windows_of
from qkatlas.jobs.worker.tables import TOKENS
from qkatlas.outputs.schemas import positions as schemas
from qkatlas.pipeline.circuit.text_streams import BLOCK_POSITIONS
from qkatlas.pipeline.models.blocks import BLOCK_ROWS
from qkatlas.pipeline.positions.comparison import DESTINATIONS, PATTERNS
from qkatlas.pipeline.positions.kinds import PREFIX

TEXT_TOKENS = 1000
"""Different tokens of the calibration text that have a content factor; its text is not read for a plan."""


def plan_positions(shape: Shape, spec: Positions) -> Plan:
    """Plan a run of `positions`, with a text that is long enough.

    Args:
        shape: the model.
        spec: what is asked for.

    Raises:
        ValueError: if the request does not fit the model.
    """
    heads = heads_within(spec.layers, spec.heads, n_layers=shape.n_layers, n_heads=shape.n_heads)
    rotary = shape.positions == 0
    v, d, h = shape.vocab_size, shape.d_model, shape.d_head
    t = length_within(spec.length, shape.n_ctx, rotary=rotary)
    windows = windows_of(spec.windows, t)
    rows = windows * min(DESTINATIONS, t - 2)
    shards = head_shards(heads)
    count, last = len(heads), heads[-1].layer
    exact = 0 if rotary else sum(head.layer == 0 for head in heads)
    from_prefix = count if rotary and spec.source == PREFIX else 0
    of_text = count - exact - from_prefix
    content = (exact + from_prefix) * (v - 1) + of_text * min(v, TEXT_TOKENS)
    pairs = h // 2 if rotary else 0
    tables = [
        PlannedTable(name="tokens", files=1, rows=v, schema=TOKENS.schema),
        PlannedTable(name="positions", files=1, rows=count, schema=schemas.POSITIONS),
        PlannedTable(name="kernels", files=count, rows=count * (t - 1), schema=schemas.KERNELS),
        *([PlannedTable(name="frequencies", files=1, rows=count * pairs, schema=schemas.FREQUENCIES)] if pairs else []),
        PlannedTable(name="denominators", files=count, rows=count * rows, schema=schemas.DENOMINATORS),
        PlannedTable(name="content", files=count, rows=content, schema=schemas.CONTENT),
    ]
    tokens, layers = 3 * windows * t, len(by_layer(heads))
    # Both passes over the vocabulary multiply it by the positions; the first takes the sums back to the model's width,
    # the second passes over the products for every head.
    embeddings = Load(float64=6.0 * v * t * d, values=(8.0 + 4.0 * exact) * v * t) if exact else Load()
    # Windows are long: scores of their tokens with each other count, and are held for a block of windows.
    scores = float(tokens * t * shape.n_heads)
    text = running(shape, tokens, last) + Load(float32=4.0 * scores * h * last, values=4.0 * scores * last)
    text += Load(hashed=4.0 * tokens * d * layers)
    held_scores = 2 * 3 * 4.0 * max(BLOCK_POSITIONS, t) * t * shape.n_heads
    projected = tokens + (v if from_prefix else 0)
    each = Load(float64=4.0 * projected * d * h + 12.0 * rows * t * h, values=8.0 * (2 + len(PATTERNS)) * rows * t)
    of_vocabulary = Load(float64=2.0 * v * h * (2 * d + t), values=6.0 * v * t) * (exact + from_prefix)
    # Behind every window the scores of its tokens with each other at all positions.
    of_windows = Load(float64=2.0 * windows * t * t * d) * exact
    written = sum(table.bytes(v) for table in tables if table.files == count)
    steps = [
        Step(name="opening the model", place=DRIVER, load=Load(hashed=8.0 * shape.weights), one_thread=True),
        Step(name="text", place=DRIVER, load=text),
        *([Step(name="layer 0 exactly", place=DRIVER, load=embeddings)] if exact else []),
        *(
            [Step(name="token states", place=DRIVER, load=passing_states(shape, last, PREFIX))]
            if from_prefix
            else []
        ),
        Step(
            name="heads", place=WORKERS, load=each * count + of_vocabulary + of_windows,
            shards=-(-count // layers),
        ),
        Step(name="writing", place=WORKERS, load=Load(written=written), shards=-(-count // layers), one_thread=True),
    ]  # fmt: skip
    stream, state = 4.0 * tokens * d, 4.0 * v * d
    shared = min(layers, 2) * (stream + (state if from_prefix else 0.0)) + (state if exact else 0.0)
    of_head = 16.0 * tokens * h + 8.0 * (1 + len(PATTERNS)) * rows * t
    of_keys = 16.0 * v * h if from_prefix else 0.0
    blocks = 2 * 8.0 * BLOCK_ROWS * (3.0 * t + 2.0 * d)
    memory = held.Memory(
        worker=held.WORKER_LIBRARIES + held.ALLOCATORS + of_head + of_keys + blocks,
        shared=shared,
        driver=held.DRIVER_LIBRARIES
        + held.tokenizer(shape, 0.0)
        + 2 * stream
        + (held_scores if last else 0.0)
        + (2 * state if exact or from_prefix else 0.0)
        + (held.GGUF_WEIGHTS if shape.in_gguf else 0.0)
        # The sums of every block of tokens wait for those before.
        + (8.0 * t * d * -(-v // BLOCK_ROWS) + blocks + 16.0 * exact * v if exact else 0.0),
        gpu=0.0,
    )
    return Plan(job="positions", shape=shape, shards=shards, tables=tables, steps=steps, memory=memory)
